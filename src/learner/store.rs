//! Parameters of which each rank has its part (ZeRO's third stage): put together where a segment runs, and gone afterwards.

use std::collections::{HashMap, VecDeque};

use brazier_models::{
    HostDtype, HostTensor, Segment, Segmented, Vlm,
    params::{ParamInfo, list_params, replace_value},
};
use burn::{
    module::{Module, ModuleMapper, Param, ParamId},
    tensor::{DType, Device, Tensor},
};

use super::{
    engine::Residence,
    parts::{joined, own_part, to_bytes},
    transport::{self, Coming},
};
use crate::parallel::{CollectiveError, Group, World};

/// This rank's parts of all parameters, in module order.
pub(super) struct Store {
    entries: Vec<Entry>,
    index: HashMap<ParamId, usize>,
    world: World,
}

struct Entry {
    info: ParamInfo,
    owners: Vec<Segment>,
    part: Tensor<1>,
}

impl Store {
    /// Takes the parameters out of a model and keeps this rank's parts. What is left of the model has its structure, and one
    /// number in the place of each parameter.
    pub(super) fn scatter(model: Vlm, world: World) -> (Vlm, Self) {
        struct Taker(Vec<Tensor<1>>, World);
        impl ModuleMapper for Taker {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                replace_value(param, |value| {
                    let empty = empty_like(&value);
                    let count = value.shape().num_elements();
                    self.0.push(own_part(value.reshape([count]), self.1));
                    empty
                })
            }
        }
        let infos = list_params(&model);
        let mut taker = Taker(Vec::with_capacity(infos.len()), world);
        let model = model.map(&mut taker);
        let entries: Vec<Entry> = infos
            .into_iter()
            .zip(taker.0)
            .map(|(info, part)| Entry {
                owners: Vlm::owner(&info.path),
                info,
                part,
            })
            .collect();
        let store = Self {
            index: entries
                .iter()
                .enumerate()
                .map(|(at, entry)| (entry.info.id, at))
                .collect(),
            entries,
            world,
        };
        (model, store)
    }

    /// This rank's part of a parameter.
    pub(super) fn part(&self, id: ParamId) -> Option<Tensor<1>> {
        Some(self.entries[*self.index.get(&id)?].part.clone())
    }

    /// A parameter in host memory, as much of it as this rank's part of the model has. Every rank of the group has to ask
    /// together.
    ///
    /// # Errors
    /// If a rank is missing or has failed.
    pub(super) fn fetch(&self, id: ParamId, group: &Group) -> Result<Option<HostTensor>, CollectiveError> {
        let Some(Entry { info, part, .. }) = self.index.get(&id).map(|&at| &self.entries[at]) else {
            return Ok(None);
        };
        let dtype = match part.dtype() {
            DType::BF16 => HostDtype::Bf16,
            _ => HostDtype::F32,
        };
        let mut bytes = group.all_gather(to_bytes(part.clone())).wait()?;
        bytes.truncate(info.num_elements() * dtype.size_bytes());
        Ok(Some(HostTensor {
            name: info.path.clone(),
            shape: info.shape.clone(),
            dtype,
            bytes,
        }))
    }

    /// Other values for the parameters that `value` has: as much of one as this rank's part of the model has, flat.
    pub(super) fn replace(&mut self, value: impl Fn(&ParamInfo, DType, &Device) -> Option<Tensor<1>>) {
        for Entry { info, part, .. } in &mut self.entries {
            if let Some(value) = value(info, part.dtype(), &part.device()) {
                *part = own_part(value, self.world);
            }
        }
    }

    /// Another value for it.
    pub(super) fn set(&mut self, id: ParamId, part: Tensor<1>) {
        if let Some(&at) = self.index.get(&id) {
            self.entries[at].part = part;
        }
    }

    /// The model with all parameters. Every rank of the group has to ask together.
    ///
    /// # Errors
    /// If a rank is missing or has failed.
    pub(super) fn whole(&self, model: &Vlm, group: &Group) -> Result<Vlm, CollectiveError> {
        let mut model = model.clone();
        // One after the other: the parts of a large model are sent once, but never lie twice in memory.
        for at in 0..self.entries.len() {
            (model, _) = self.fill(model, self.ask_for(vec![at], group), group)?;
        }
        Ok(model)
    }

    /// Lets the parts of parameters come from all ranks.
    fn ask_for(&self, wanted: Vec<usize>, group: &Group) -> Asked {
        let parts: Vec<Tensor<1>> = wanted.iter().map(|&at| self.entries[at].part.clone()).collect();
        let coming = (!parts.is_empty()).then(|| {
            let parts = Tensor::cat(parts, 0);
            let [len] = parts.dims();
            (len, transport::all_gather(group, parts))
        });
        Asked { wanted, coming }
    }

    /// Puts parameters that were asked for into their places.
    fn fill(
        &self,
        model: Vlm,
        Asked { wanted, coming }: Asked,
        group: &Group,
    ) -> Result<(Vlm, Vec<usize>), CollectiveError> {
        struct Filler<'a>(&'a Store, HashMap<usize, Tensor<1>>);
        impl ModuleMapper for Filler<'_> {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let at = self.0.index.get(&param.id);
                let Some((at, value)) = at.and_then(|at| Some((*at, self.1.remove(at)?))) else {
                    return param;
                };
                let shape: [usize; D] = std::array::from_fn(|axis| self.0.entries[at].info.shape[axis]);
                replace_value(param, |_| value.reshape(shape))
            }
        }
        let Some((len, coming)) = coming else {
            return Ok((model, wanted));
        };
        let counts = wanted.iter().map(|&at| self.entries[at].info.num_elements());
        let counts: Vec<usize> = counts.collect();
        let parts = coming.wait()?.reshape([group.world().size, len]);
        let values = wanted.iter().copied().zip(joined(parts, &counts)).collect();
        Ok((model.map(&mut Filler(self, values)), wanted))
    }

    /// Takes parameters out of their places.
    fn clear(&self, model: Vlm, unwanted: &[usize]) -> Vlm {
        struct Clearer<'a>(&'a Store, &'a [usize]);
        impl ModuleMapper for Clearer<'_> {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                match self.0.index.get(&param.id).is_some_and(|at| self.1.contains(at)) {
                    true => replace_value(param, |value| empty_like(&value)),
                    false => param,
                }
            }
        }
        model.map(&mut Clearer(self, unwanted))
    }
}

fn empty_like<const D: usize>(value: &Tensor<D>) -> Tensor<D> {
    Tensor::zeros([1; D], (&value.device(), value.dtype()))
}

/// Parameters on their way.
struct Asked {
    wanted: Vec<usize>,
    /// Values of each rank's part of all of them, and these of all ranks; `None` where nothing is wanted.
    coming: Option<(usize, Coming)>,
}

/// A model whose parameters come and go with its segments. Those of the next segment come while one runs.
pub(super) struct Visiting<'a> {
    store: &'a Store,
    group: &'a Group,
    /// `None` only inside a change.
    model: Option<Vlm>,
    /// Where it is, and which parameters it has there.
    here: Option<(Segment, Vec<usize>)>,
    /// Where it goes from here.
    itinerary: VecDeque<Segment>,
    next: Option<Asked>,
}

impl<'a> Visiting<'a> {
    /// `empty` is what [`Store::scatter`] has left. `itinerary` are the segments that will be entered, in this order on all ranks.
    pub(super) fn new(empty: Vlm, store: &'a Store, group: &'a Group, itinerary: Vec<Segment>) -> Self {
        let mut visiting = Self {
            store,
            group,
            model: Some(empty),
            here: None,
            itinerary: itinerary.into(),
            next: None,
        };
        visiting.ask_for_next();
        visiting
    }

    fn ask_for_next(&mut self) {
        let ask_for = |&segment: &Segment| {
            let owned = |entry: &Entry| entry.owners.contains(&segment);
            let entries = self.store.entries.iter().enumerate();
            let wanted = entries.filter_map(|(at, entry)| owned(entry).then_some(at));
            self.store.ask_for(wanted.collect(), self.group)
        };
        self.next = self.itinerary.front().map(ask_for);
    }
}

impl Residence for Visiting<'_> {
    fn enter(&mut self, segment: Segment) -> Result<&Vlm, CollectiveError> {
        if self.here.as_ref().is_none_or(|(here, _)| *here != segment)
            && let Some(mut model) = self.model.take()
        {
            if let Some((_, held)) = self.here.take() {
                model = self.store.clear(model, &held);
            }
            let expected = self.itinerary.pop_front();
            assert_eq!(expected, Some(segment), "a segment that was not announced");
            if let Some(asked) = self.next.take() {
                let (model, wanted) = self.store.fill(model, asked, self.group)?;
                self.model = Some(model);
                self.here = Some((segment, wanted));
            }
            self.ask_for_next();
        }
        match &self.model {
            Some(model) => Ok(model),
            None => unreachable!("after an error nobody enters again"),
        }
    }
}
