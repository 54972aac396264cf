//! Numbers of images: what is made of one is kept under its number.

use std::{collections::HashMap, path::Path};

use super::{super::batch::ImageNumber, Row, RowImage};

/// Numbers the images of all rows, from 0, and gives how many there are. Images in the same file are one: rows of
/// visual instructions often share their pictures, and to compare contents, each of them would have to be read in each
/// epoch. One that is in a row is a picture of its own.
pub(super) fn number_images(rows: &mut [Row]) -> usize {
    let mut files: HashMap<&Path, ImageNumber> = HashMap::new();
    let mut count = 0;
    for row in rows {
        let Row {
            images,
            image_numbers,
            ..
        } = row;
        let numbers = images.iter().map(|image| {
            let fresh = count;
            let number = match image {
                RowImage::File(path) => *files.entry(path).or_insert(fresh),
                RowImage::InRow => fresh,
            };
            count += ImageNumber::from(number == fresh);
            number
        });
        *image_numbers = numbers.collect();
    }
    count as usize
}
