//! File descriptors: a connection takes one, and the system gives a process few of them unless it asks for more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Asks for as many as this process may have; says how many there are.
pub fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, ?current, ?maximum, "no more file descriptors");
            current
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_are_as_many_as_may_be() {
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        assert_eq!(super::raise(), most);
        assert_eq!(super::raise(), most);
    }
}
