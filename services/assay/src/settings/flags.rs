//! Flags over a file: the flags of some settings are clap's own of the struct, and change it once its file is read.

use std::marker::PhantomData;
use std::path::Path;

use anyhow::Result;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use serde::de::DeserializeOwned;

/// What the command line says of the settings `T`.
#[derive(Debug)]
pub(crate) struct Flags<T> {
    matches: ArgMatches,
    settings: PhantomData<T>,
}

// === impl Flags ===

impl<T: Default + DeserializeOwned + FromArgMatches> Flags<T> {
    /// What the file says, or the defaults without one, and what the flags say over it.
    pub(crate) fn over(&self, file: Option<&Path>) -> Result<T> {
        let mut settings = file.map(service::config::load).transpose()?.unwrap_or_default();
        T::update_from_arg_matches(&mut settings, &self.matches)?;
        Ok(settings)
    }
}

impl<T: Args> Args for Flags<T> {
    fn augment_args(command: Command) -> Command {
        T::augment_args_for_update(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }
}

impl<T> FromArgMatches for Flags<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { matches: matches.clone(), settings: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.matches = matches.clone();
        Ok(())
    }
}
