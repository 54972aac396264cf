//! Types of columns, as Hugging Face's `datasets` gives and names them.

use std::{collections::HashMap, sync::Arc};

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use serde_json::{Value as Json, json};

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Type {
    /// Nothing but null.
    Null,
    Bool,
    Int,
    Float,
    Text,
    Bytes,
    List(Box<Type>),
    Struct(Vec<(String, Type)>),
    /// Hugging Face's `Image`: `{bytes, path}`.
    Image,
}

impl Type {
    pub(super) fn arrow(&self) -> DataType {
        match self {
            Type::Null => DataType::Null,
            Type::Bool => DataType::Boolean,
            Type::Int => DataType::Int64,
            Type::Float => DataType::Float64,
            Type::Text => DataType::Utf8,
            Type::Bytes => DataType::Binary,
            Type::List(inside) => DataType::List(Arc::new(Field::new("item", inside.arrow(), true))),
            Type::Struct(fields) => DataType::Struct(arrow_fields(fields)),
            Type::Image => DataType::Struct(arrow_fields(&image_fields())),
        }
    }

    /// As `datasets` writes it down. <https://huggingface.co/docs/datasets/about_dataset_features>
    fn feature(&self) -> Json {
        let value = |dtype: &str| json!({"dtype": dtype, "_type": "Value"});
        match self {
            Type::Null => value("null"),
            Type::Bool => value("bool"),
            Type::Int => value("int64"),
            Type::Float => value("float64"),
            Type::Text => value("string"),
            Type::Bytes => value("binary"),
            Type::List(inside) => json!({"feature": inside.feature(), "_type": "List"}),
            Type::Struct(fields) => entries(fields),
            Type::Image => json!({"_type": "Image"}),
        }
    }

    fn has_mark(&self) -> bool {
        match self {
            Type::Struct(fields) => fields
                .iter()
                .any(|(name, inside)| name == "_type" || inside.has_mark()),
            Type::List(inside) => inside.has_mark(),
            _ => false,
        }
    }

    /// An object without keys, and its place.
    pub(super) fn empty_struct(&self, place: &str) -> Option<String> {
        match self {
            Type::Struct(fields) if fields.is_empty() => Some(place.to_owned()),
            Type::Struct(fields) => fields
                .iter()
                .find_map(|(name, inside)| inside.empty_struct(&below(place, name))),
            Type::List(inside) => inside.empty_struct(&format!("{place}[]")),
            _ => None,
        }
    }
}

/// The entries of an image.
pub(super) fn image_fields() -> Vec<(String, Type)> {
    vec![("bytes".to_owned(), Type::Bytes), ("path".to_owned(), Type::Text)]
}

fn arrow_fields(fields: &[(String, Type)]) -> Fields {
    let field = |(name, inside): &(String, Type)| Field::new(name, inside.arrow(), true);
    fields.iter().map(field).collect()
}

/// `Features` of a data set; null where a key is `_type`, which they do not tell from a mark of their own. Without them,
/// `datasets` goes by the columns.
pub(super) fn features(columns: &[(String, Type)]) -> Json {
    match columns
        .iter()
        .any(|(name, inside)| name == "_type" || inside.has_mark())
    {
        true => Json::Null,
        false => entries(columns),
    }
}

fn entries(columns: &[(String, Type)]) -> Json {
    let entries = columns
        .iter()
        .map(|(name, inside)| (name.clone(), inside.feature()));
    Json::Object(entries.collect())
}

/// The schema of a file, with the features for `datasets` in its metadata.
pub(super) fn schema(columns: &[(String, Type)]) -> SchemaRef {
    let features = features(columns);
    let metadata = match features.is_null() {
        true => HashMap::new(),
        false => HashMap::from([(
            "huggingface".to_owned(),
            json!({"info": {"features": features}}).to_string(),
        )]),
    };
    Arc::new(Schema::new_with_metadata(arrow_fields(columns), metadata))
}

/// The place of a key in an object that has one.
pub(super) fn below(place: &str, name: &str) -> String {
    match place {
        "" => name.to_owned(),
        place => format!("{place}.{name}"),
    }
}
