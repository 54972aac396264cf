//! Rows as batches of columns.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryBuilder, BooleanBuilder, Float64Builder, Int64Builder, ListArray, NullArray,
        NullBufferBuilder, RecordBatch, StringBuilder, StructArray,
    },
    buffer::OffsetBuffer,
    datatypes::{DataType, SchemaRef},
    error::ArrowError,
};

use super::{
    super::{error::RowProblem, value::Value},
    types::{Type, image_fields},
};

/// Text, bytes and lists of a column are counted with 31 bits, and a batch is closed long before; one row must fit.
const MAX_ROW_BYTES: usize = 1 << 30;

/// Collects rows of known columns.
pub(super) struct Batch {
    schema: SchemaRef,
    columns: Vec<(String, Column)>,
    num_rows: usize,
    size_bytes: usize,
}

impl Batch {
    pub(super) fn new(schema: SchemaRef, columns: &[(String, Type)]) -> Self {
        let columns = columns
            .iter()
            .map(|(name, inside)| (name.clone(), Column::new(inside)));
        Self {
            schema,
            columns: columns.collect(),
            num_rows: 0,
            size_bytes: 0,
        }
    }

    /// Appends a row. One that is refused leaves nothing.
    pub(super) fn push(&mut self, row: &Value) -> Result<(), RowProblem> {
        let size_bytes = size_bytes(row);
        if size_bytes > MAX_ROW_BYTES {
            return Err(RowProblem::Source {
                reason: format!("the row takes {size_bytes} bytes; one of a table at most {MAX_ROW_BYTES}"),
            });
        }
        let Value::Object(entries) = row else {
            return Err(RowProblem::Changed);
        };
        check(entries, &self.columns)?;
        append_entries(&mut self.columns, entries);
        self.num_rows += 1;
        self.size_bytes += size_bytes;
        Ok(())
    }

    pub(super) fn num_rows(&self) -> usize {
        self.num_rows
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// The collected rows; the next ones begin anew.
    pub(super) fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        let fields = self.schema.fields().iter();
        let columns = fields
            .zip(&mut self.columns)
            .map(|(field, (_, column))| column.finish(field.data_type()));
        let batch = RecordBatch::try_new(self.schema.clone(), columns.collect::<Result<_, _>>()?)?;
        self.num_rows = 0;
        self.size_bytes = 0;
        Ok(batch)
    }
}

/// About the memory that a value takes.
pub(super) fn size_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => 8,
        Value::Text(text) => 8 + text.len(),
        Value::Bytes(bytes) => 8 + bytes.len(),
        Value::List(values) => 8 + values.iter().map(size_bytes).sum::<usize>(),
        Value::Object(entries) => {
            8 + entries
                .iter()
                .map(|(name, value)| name.len() + size_bytes(value))
                .sum::<usize>()
        }
    }
}

enum Column {
    Null(usize),
    Bool(BooleanBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    List {
        lengths: Vec<usize>,
        valid: NullBufferBuilder,
        inside: Box<Column>,
    },
    Struct {
        valid: NullBufferBuilder,
        columns: Vec<(String, Column)>,
    },
}

impl Column {
    fn new(inside: &Type) -> Self {
        match inside {
            Type::Null => Column::Null(0),
            Type::Bool => Column::Bool(BooleanBuilder::new()),
            Type::Int => Column::Int(Int64Builder::new()),
            Type::Float => Column::Float(Float64Builder::new()),
            Type::Text => Column::Text(StringBuilder::new()),
            Type::Bytes => Column::Bytes(BinaryBuilder::new()),
            Type::List(inside) => Column::List {
                lengths: Vec::new(),
                valid: NullBufferBuilder::new(0),
                inside: Box::new(Column::new(inside)),
            },
            Type::Struct(fields) => Column::of_struct(fields),
            Type::Image => Column::of_struct(&image_fields()),
        }
    }

    fn of_struct(fields: &[(String, Type)]) -> Self {
        let columns = fields
            .iter()
            .map(|(name, inside)| (name.clone(), Column::new(inside)));
        Column::Struct {
            valid: NullBufferBuilder::new(0),
            columns: columns.collect(),
        }
    }

    /// Whether a value fits. The columns were made for all rows, so it does unless the file changed.
    fn takes(&self, value: &Value) -> Result<(), RowProblem> {
        match (self, value) {
            (_, Value::Null)
            | (Column::Bool(_), Value::Bool(_))
            | (Column::Int(_), Value::Int(_))
            | (Column::Float(_), Value::Int(_) | Value::Float(_))
            | (Column::Text(_), Value::Text(_))
            | (Column::Bytes(_), Value::Bytes(_)) => Ok(()),
            (Column::List { inside, .. }, Value::List(values)) => {
                values.iter().try_for_each(|value| inside.takes(value))
            }
            (Column::Struct { columns, .. }, Value::Object(entries)) => check(entries, columns),
            _ => Err(RowProblem::Changed),
        }
    }

    /// Appends a value that fits.
    fn append(&mut self, value: &Value) {
        match (self, value) {
            (Column::Null(length), _) => *length += 1,
            (Column::Bool(column), Value::Bool(value)) => column.append_value(*value),
            (Column::Bool(column), _) => column.append_null(),
            (Column::Int(column), Value::Int(number)) => column.append_value(*number),
            (Column::Int(column), _) => column.append_null(),
            (Column::Float(column), Value::Float(number)) => column.append_value(*number),
            (Column::Float(column), Value::Int(number)) => column.append_value(*number as f64),
            (Column::Float(column), _) => column.append_null(),
            (Column::Text(column), Value::Text(text)) => column.append_value(text),
            (Column::Text(column), _) => column.append_null(),
            (Column::Bytes(column), Value::Bytes(bytes)) => column.append_value(bytes),
            (Column::Bytes(column), _) => column.append_null(),
            (
                Column::List {
                    lengths,
                    valid,
                    inside,
                },
                value,
            ) => {
                let values = value.as_list();
                valid.append(values.is_some());
                lengths.push(values.unwrap_or_default().len());
                values
                    .unwrap_or_default()
                    .iter()
                    .for_each(|value| inside.append(value));
            }
            (Column::Struct { valid, columns }, value) => {
                let entries = value.as_object();
                valid.append(entries.is_some());
                append_entries(columns, entries.unwrap_or_default());
            }
        }
    }

    fn finish(&mut self, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
        Ok(match (self, data_type) {
            (Column::Null(length), _) => Arc::new(NullArray::new(std::mem::take(length))),
            (Column::Bool(column), _) => Arc::new(column.finish()),
            (Column::Int(column), _) => Arc::new(column.finish()),
            (Column::Float(column), _) => Arc::new(column.finish()),
            (Column::Text(column), _) => Arc::new(column.finish()),
            (Column::Bytes(column), _) => Arc::new(column.finish()),
            (
                Column::List {
                    lengths,
                    valid,
                    inside,
                },
                DataType::List(field),
            ) => {
                let offsets = OffsetBuffer::from_lengths(std::mem::take(lengths));
                let values = inside.finish(field.data_type())?;
                Arc::new(ListArray::try_new(
                    field.clone(),
                    offsets,
                    values,
                    valid.finish(),
                )?)
            }
            (Column::Struct { valid, columns }, DataType::Struct(fields)) => {
                let length = valid.len();
                let arrays = fields
                    .iter()
                    .zip(columns)
                    .map(|(field, (_, column))| column.finish(field.data_type()))
                    .collect::<Result<_, _>>()?;
                let valid = valid.finish();
                Arc::new(StructArray::try_new_with_length(
                    fields.clone(),
                    arrays,
                    valid,
                    length,
                )?)
            }
            (_, other) => {
                return Err(ArrowError::SchemaError(format!(
                    "a column that was made for something else is {other}"
                )));
            }
        })
    }
}

fn check(entries: &[(String, Value)], columns: &[(String, Column)]) -> Result<(), RowProblem> {
    entries
        .iter()
        .enumerate()
        .try_for_each(|(number, (name, value))| match column_of(columns, name, number) {
            Some(at) => columns[at].1.takes(value),
            None => Err(RowProblem::Changed),
        })
}

fn append_entries(columns: &mut [(String, Column)], entries: &[(String, Value)]) {
    for (number, (name, column)) in columns.iter_mut().enumerate() {
        let next = entries.get(number).filter(|(known, _)| known == name);
        let found = next.or_else(|| entries.iter().find(|(known, _)| known == name));
        column.append(found.map_or(&Value::Null, |(_, value)| value));
    }
}

/// Most rows have their keys in the order of the columns.
fn column_of(columns: &[(String, Column)], name: &str, number: usize) -> Option<usize> {
    let is_next = columns.get(number).is_some_and(|(known, _)| known == name);
    match is_next {
        true => Some(number),
        false => columns.iter().position(|(known, _)| known == name),
    }
}
