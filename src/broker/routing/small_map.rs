//! A map that holds one or two entries nearly always, and thousands now and then.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Up to so many are looked through one by one, and need no more memory than themselves.
const FEW: usize = 16;

#[derive(Debug)]
pub(super) enum SmallMap<K, V> {
    Few(Vec<(K, V)>),
    #[expect(clippy::box_collection, reason = "there are many maps and few of these, and a map is twice a vector")]
    Many(Box<HashMap<K, V>>),
}

impl<K: Hash + Eq, V> SmallMap<K, V> {
    pub(super) const fn new() -> Self {
        Self::Few(Vec::new())
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Few(few) => few.is_empty(),
            Self::Many(many) => many.is_empty(),
        }
    }

    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Few(few) => few.iter().find(|(known, _)| known.borrow() == key).map(|(_, value)| value),
            Self::Many(many) => many.get(key),
        }
    }

    /// Yields what was there.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self {
            Self::Many(many) => return many.insert(key, value),
            Self::Few(few) => {
                if let Some((_, known)) = few.iter_mut().find(|(known, _)| *known == key) {
                    return Some(std::mem::replace(known, value));
                }
                if few.len() < FEW {
                    few.reserve_exact(1);
                    few.push((key, value));
                } else {
                    *self = Self::Many(Box::new(few.drain(..).chain([(key, value)]).collect()));
                }
            }
        }
        None
    }

    pub(super) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Few(few) => {
                let at = few.iter().position(|(known, _)| known.borrow() == key)?;
                let (_, value) = few.swap_remove(at);
                few.shrink_to_fit();
                Some(value)
            }
            Self::Many(many) => {
                let value = many.remove(key)?;
                if many.len() <= FEW / 2 {
                    let mut few: Vec<_> = many.drain().collect();
                    few.shrink_to_fit();
                    *self = Self::Few(few);
                } else if many.len() < many.capacity() / 4 {
                    many.shrink_to(many.len() * 2);
                }
                Some(value)
            }
        }
    }

    pub(super) fn for_each(&self, mut each: impl FnMut(&K, &V)) {
        match self {
            Self::Few(few) => few.iter().for_each(|(key, value)| each(key, value)),
            Self::Many(many) => many.iter().for_each(|(key, value)| each(key, value)),
        }
    }
}
