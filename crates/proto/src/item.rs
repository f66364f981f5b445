//! What an item holds, as both of its sides count it: clients that wait for answers, and gateways that give them.

use crate::v1::Item;
use crate::v1::item::Input;

impl Item {
    /// How many conversations it has, and so answers: one, or as many as a group has responses.
    pub fn conversations(&self) -> usize {
        match &self.input {
            Some(Input::Group(group)) => group.responses.len().max(1),
            _ => 1,
        }
    }
}
