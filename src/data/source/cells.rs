//! Cells of Arrow tables as values.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, StructArray},
    datatypes::{
        DataType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Schema,
        UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    },
    util::display::{ArrayFormatter, FormatOptions},
};

use super::super::{
    error::RowProblem,
    value::{MAX_DEPTH, Value},
};

/// One row; `index < batch.num_rows()`. Columns that are null there are left out, as JSON leaves them out.
pub(super) fn row(batch: &RecordBatch, index: usize) -> Result<Value, RowProblem> {
    let schema = batch.schema_ref();
    let names = schema.fields().iter().map(|field| field.name().as_str());
    object(names.zip(batch.columns()), index, MAX_DEPTH)
}

/// Runs a reader of foreign files. What they still take for granted ends as an error here.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err("its parts contradict each other: it is damaged".to_owned()))
}

fn object<'a>(
    columns: impl Iterator<Item = (&'a str, &'a ArrayRef)>,
    index: usize,
    depth: usize,
) -> Result<Value, RowProblem> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(problem(format!("it is nested more than {MAX_DEPTH} levels deep")));
    };
    let mut entries = Vec::new();
    for (name, column) in columns {
        let value = cell(column.as_ref(), index, depth).map_err(|error| in_column(name, error))?;
        if value != Value::Null {
            entries.push((name.to_owned(), value));
        }
    }
    Ok(Value::Object(entries))
}

fn in_column(name: &str, error: RowProblem) -> RowProblem {
    problem(format!("column {name:?}: {error}"))
}

fn problem(reason: String) -> RowProblem {
    RowProblem::Source { reason }
}

/// Names of columns that hold, anywhere in them, what [`written`] writes as text.
pub(super) fn rewritten(schema: &Schema, wanted: Option<&[usize]>) -> Vec<String> {
    let is_wanted = |place: usize| wanted.is_none_or(|wanted| wanted.contains(&place));
    let fields = schema.fields().iter().enumerate();
    fields
        .filter(|(place, field)| is_wanted(*place) && is_written(field.data_type()))
        .map(|(_, field)| field.name().clone())
        .collect()
}

fn is_written(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => is_written(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| is_written(field.data_type())),
        DataType::Dictionary(_, values) => is_written(values),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => false,
        DataType::Null | DataType::Boolean => false,
        other => !(other.is_integer() || other.is_string() || other.is_binary()),
    }
}

macro_rules! whole {
    ($array:expr, $index:expr, $type:ty) => {
        Ok(Value::Int(i64::from(
            $array.as_primitive::<$type>().value($index),
        )))
    };
}

fn cell(array: &dyn Array, index: usize, depth: usize) -> Result<Value, RowProblem> {
    if array.is_null(index) {
        return Ok(Value::Null);
    }
    match array.data_type() {
        DataType::Null => Ok(Value::Null),
        DataType::Boolean => Ok(Value::Bool(array.as_boolean().value(index))),
        DataType::Int8 => whole!(array, index, Int8Type),
        DataType::Int16 => whole!(array, index, Int16Type),
        DataType::Int32 => whole!(array, index, Int32Type),
        DataType::Int64 => whole!(array, index, Int64Type),
        DataType::UInt8 => whole!(array, index, UInt8Type),
        DataType::UInt16 => whole!(array, index, UInt16Type),
        DataType::UInt32 => whole!(array, index, UInt32Type),
        DataType::UInt64 => {
            let number = array.as_primitive::<UInt64Type>().value(index);
            Ok(i64::try_from(number).map_or(Value::Float(number as f64), Value::Int))
        }
        DataType::Float16 => Ok(Value::Float(
            array.as_primitive::<Float16Type>().value(index).to_f64(),
        )),
        DataType::Float32 => Ok(Value::Float(
            array.as_primitive::<Float32Type>().value(index).into(),
        )),
        DataType::Float64 => Ok(Value::Float(array.as_primitive::<Float64Type>().value(index))),
        DataType::Utf8 => Ok(text(array.as_string::<i32>().value(index))),
        DataType::LargeUtf8 => Ok(text(array.as_string::<i64>().value(index))),
        DataType::Utf8View => Ok(text(array.as_string_view().value(index))),
        DataType::Binary => Ok(bytes(array.as_binary::<i32>().value(index))),
        DataType::LargeBinary => Ok(bytes(array.as_binary::<i64>().value(index))),
        DataType::BinaryView => Ok(bytes(array.as_binary_view().value(index))),
        DataType::FixedSizeBinary(_) => Ok(bytes(array.as_fixed_size_binary().value(index))),
        DataType::List(_) => list(&array.as_list::<i32>().value(index), depth),
        DataType::LargeList(_) => list(&array.as_list::<i64>().value(index), depth),
        DataType::ListView(_) => list(&array.as_list_view::<i32>().value(index), depth),
        DataType::LargeListView(_) => list(&array.as_list_view::<i64>().value(index), depth),
        DataType::FixedSizeList(..) => list(&array.as_fixed_size_list().value(index), depth),
        DataType::Struct(_) => fields(array.as_struct(), index, depth),
        DataType::Map(..) => map(&array.as_map().value(index), depth),
        DataType::Dictionary(..) => of_dictionary(array, index, depth),
        // Dates, times, decimals: as they are written.
        _ => written(array, index),
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn bytes(bytes: &[u8]) -> Value {
    Value::Bytes(bytes.to_vec())
}

fn list(values: &ArrayRef, depth: usize) -> Result<Value, RowProblem> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(problem(format!("it is nested more than {MAX_DEPTH} levels deep")));
    };
    let values = (0..values.len()).map(|index| cell(values.as_ref(), index, depth));
    Ok(Value::List(values.collect::<Result<_, _>>()?))
}

fn fields(array: &StructArray, index: usize, depth: usize) -> Result<Value, RowProblem> {
    let names = array.fields().iter().map(|field| field.name().as_str());
    object(names.zip(array.columns()), index, depth)
}

fn map(entries: &StructArray, depth: usize) -> Result<Value, RowProblem> {
    let mut found: Vec<(String, Value)> = Vec::with_capacity(entries.len());
    for index in 0..entries.len() {
        let key = match cell(entries.column(0), index, depth)? {
            Value::Text(key) => key,
            other => return Err(problem(format!("a key is {}, not text", other.kind()))),
        };
        if found.iter().any(|(known, _)| *known == key) {
            return Err(problem(format!("the key {key:?} is there twice")));
        }
        match cell(entries.column(1), index, depth)? {
            Value::Null => {}
            value => found.push((key, value)),
        }
    }
    Ok(Value::Object(found))
}

fn of_dictionary(array: &dyn Array, index: usize, depth: usize) -> Result<Value, RowProblem> {
    let dictionary = array.as_any_dictionary();
    let values = dictionary.values();
    let key = match cell(dictionary.keys(), index, depth)? {
        Value::Int(key) => usize::try_from(key).ok().filter(|&key| key < values.len()),
        _ => None,
    };
    match key {
        Some(key) => cell(values.as_ref(), key, depth),
        None => Err(problem("it names no value of its dictionary".to_owned())),
    }
}

fn written(array: &dyn Array, index: usize) -> Result<Value, RowProblem> {
    let unreadable = |reason: String| problem(format!("cannot read {}: {reason}", array.data_type()));
    let formatter = ArrayFormatter::try_new(array, &FormatOptions::new())
        .map_err(|error| unreadable(error.to_string()))?;
    let text = formatter.value(index).try_to_string();
    Ok(Value::Text(text.map_err(|error| unreadable(error.to_string()))?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{
            ArrayRef, Date32Array, DictionaryArray, Int8Array, ListBuilder, MapBuilder, StringArray,
            StringBuilder, StringViewArray, TimestampMillisecondArray, UInt64Array,
        },
        datatypes::Int8Type,
    };

    use super::*;

    fn column(array: ArrayRef) -> RecordBatch {
        RecordBatch::try_from_iter([("x", array)]).unwrap()
    }

    fn cells(array: ArrayRef) -> Vec<Option<Value>> {
        let batch = column(array);
        (0..batch.num_rows())
            .map(|index| row(&batch, index).unwrap().get("x").cloned())
            .collect()
    }

    #[test]
    fn cells_become_values() {
        let text = |text: &str| Some(Value::Text(text.to_owned()));
        let large = UInt64Array::from(vec![Some(3), None, Some(u64::MAX)]);
        let expected = [Some(Value::Int(3)), None, Some(Value::Float(u64::MAX as f64))];
        assert_eq!(cells(Arc::new(large)), expected);
        let view = StringViewArray::from(vec!["short", "longer than twelve bytes"]);
        assert_eq!(
            cells(Arc::new(view)),
            [text("short"), text("longer than twelve bytes")]
        );
        let words: DictionaryArray<Int8Type> = ["b", "a", "b"].into_iter().collect();
        assert_eq!(cells(Arc::new(words)), [text("b"), text("a"), text("b")]);
        assert_eq!(cells(Arc::new(Date32Array::from(vec![1]))), [text("1970-01-02")]);
        let time = TimestampMillisecondArray::from(vec![1500]);
        assert_eq!(cells(Arc::new(time)), [text("1970-01-01T00:00:01.500")]);
    }

    #[test]
    fn lists_keep_their_nulls_and_objects_do_not() {
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value([Some("a"), None]);
        lists.append_null();
        let found = cells(Arc::new(lists.finish()));
        assert_eq!(
            found,
            [
                Some(Value::List(vec![Value::Text("a".into()), Value::Null])),
                None
            ]
        );

        let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        maps.keys().append_value("k");
        maps.values().append_value("v");
        maps.append(true).unwrap();
        maps.keys().append_value("k");
        maps.values().append_value("v");
        maps.keys().append_value("k");
        maps.values().append_value("w");
        maps.append(true).unwrap();
        let batch = column(Arc::new(maps.finish()));
        let entry = ("k".to_owned(), Value::Text("v".into()));
        assert_eq!(
            row(&batch, 0).unwrap().get("x"),
            Some(&Value::Object(vec![entry]))
        );
        let message = row(&batch, 1).unwrap_err().to_string();
        assert_eq!(message, "column \"x\": the key \"k\" is there twice");
    }

    #[test]
    fn a_key_outside_its_dictionary_is_an_error() {
        let keys = Int8Array::from(vec![0, 7]);
        let values: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
        assert!(
            DictionaryArray::<Int8Type>::try_new(keys, values).is_err(),
            "Arrow finds it first"
        );
        let message = guarded::<()>(|| panic!("damaged")).unwrap_err();
        assert!(message.contains("contradict"), "{message}");
    }
}
