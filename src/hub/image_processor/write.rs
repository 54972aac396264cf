//! [`ImageProcessor`] to `preprocessor_config.json`.

use serde_json::{Value, json};

use super::PREPROCESSOR;
use crate::{
    hub::{HubError, Result},
    image_processor::{
        CLIP_MEAN, CLIP_STD, Filter, ImageProcessor, Normalize, Rescale, Resize, TargetSize, mean_colour,
    },
};

/// A processor as transformers writes it.
///
/// # Errors
/// If padding has another colour than the mean: no key says so.
pub(in crate::hub) fn image_processor_json(processor: &ImageProcessor) -> Result<Value> {
    let normalize = processor.normalize.unwrap_or(Normalize {
        mean: CLIP_MEAN,
        std: CLIP_STD,
    });
    if processor
        .pad_to_square
        .is_some_and(|colour| colour != mean_colour(normalize.mean))
    {
        return Err(HubError::Inexpressible {
            what: PREPROCESSOR.into(),
            reason: "images are padded with another colour than the mean".into(),
        });
    }
    // Each class takes all the keys; these are the ones whose habits are nearest.
    let class = match (processor.pad_to_square, processor.center_crop) {
        (Some(_), _) => "LlavaImageProcessor",
        (None, Some(_)) => "CLIPImageProcessor",
        (None, None) => "SiglipImageProcessor",
    };
    let mut json = json!({
        "image_processor_type": class,
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": true,
        "do_resize": processor.resize.is_some(),
        "do_center_crop": processor.center_crop.is_some(),
        "do_rescale": processor.rescale.is_some(),
        "rescale_factor": processor.rescale.map_or(1.0 / 255.0, Rescale::factor),
        "do_normalize": processor.normalize.is_some(),
        "image_mean": normalize.mean,
        "image_std": normalize.std,
    });
    if let Some(Resize { size, filter }) = processor.resize {
        json["size"] = match size {
            TargetSize::Exact(size) => json!({"height": size.height, "width": size.width}),
            TargetSize::ShortestEdge(edge) => json!({"shortest_edge": edge}),
            TargetSize::Edges { shortest, longest } => {
                json!({"shortest_edge": shortest, "longest_edge": longest})
            }
        };
        json["resample"] = Filter::ALL.iter().position(|&known| known == filter).into();
    }
    if let Some(size) = processor.center_crop {
        json["crop_size"] = json!({"height": size.height, "width": size.width});
    }
    if processor.pad_to_square.is_some() {
        json["do_pad"] = true.into();
    }
    Ok(json)
}
