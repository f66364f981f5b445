//! C libraries that are found while the program runs: a table of the functions that are used, and nothing that can panic.
//!
//! cudarc has the types, but its way in looks for `libNAME.so` first, which is that of a development package or of
//! another version, panics where a function is missing, and takes results as an enum, which a later library may extend.

#![allow(
    unsafe_code,
    reason = "what a C library does when it is loaded, and what its functions take, is for it to say"
)]

#[doc(hidden)]
pub use libloading;

/// Declares a table of functions of a C library, each with its name there, and how the table is filled.
///
/// `Table::load(names)` opens the first of `names` that is there and has all functions; its error says what is wrong
/// with each. The declarations must be those of the library's header.
#[macro_export]
macro_rules! functions {
    ($(#[$doc:meta])* $visibility:vis struct $table:ident {
        $($field:ident: $symbol:literal ($($argument:ty),*) -> $result:ty;)*
    }) => {
        $(#[$doc])*
        $visibility struct $table {
            $($visibility $field: unsafe extern "C" fn($($argument),*) -> $result,)*
            /// Keeps the functions where they are.
            _library: $crate::library::libloading::Library,
        }

        impl $table {
            $visibility fn load(names: &[&str]) -> Result<Self, String> {
                $crate::library::first(names, |library| {
                    Ok(Self {
                        $(
                            $field: {
                                type Function = unsafe extern "C" fn($($argument),*) -> $result;
                                let symbol: &[u8] = $symbol;
                                // SAFETY: the library's header declares the function like this
                                *unsafe { library.get::<Function>(symbol) }?
                            },
                        )*
                        _library: library,
                    })
                })
            }
        }
    };
}

/// The first library of these names from which `table` can be made, or what is wrong with each.
///
/// # Errors
/// What the system's loader says of every name.
pub fn first<T>(
    names: &[&str],
    table: impl Fn(libloading::Library) -> Result<T, libloading::Error>,
) -> Result<T, String> {
    let mut problems = Vec::new();
    for name in names {
        // SAFETY: what these libraries do when they are loaded has no conditions
        match unsafe { libloading::Library::new(*name) }.and_then(&table) {
            Ok(table) => return Ok(table),
            Err(error) => problems.push(with_cause(&error)),
        }
    }
    Err(problems.join("; "))
}

/// What the loader says is the cause of what libloading says.
fn with_cause(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
