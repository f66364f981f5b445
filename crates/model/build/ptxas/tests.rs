//! Tests of the reading of ptxas' log, on what CUDA 13.0 writes.

use super::*;

const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'add' for 'sm_90'
ptxas info    : Function properties for add
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers
ptxas info    : Compile time = 1.755 ms
ptxas info    : Compiling entry function '_Z17segment_attentionILi64EEvPfi' for 'sm_90'
ptxas info    : Function properties for _Z17segment_attentionILi64EEvPfi
    880 bytes stack frame, 1216 bytes spill stores, 1260 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 880 bytes cumulative stack size
ptxas info    : Compile time = 44.005 ms
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'add' for 'sm_80'
ptxas info    : Function properties for add
    8 bytes stack frame, 0 bytes spill stores, 4 bytes spill loads
ptxas info    : Function properties for called
    0 bytes stack frame, 12 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers, 368 bytes cmem[0]
";

fn spill(kernel: &str, architecture: &str, stored_bytes: u64, loaded_bytes: u64) -> Spill {
    Spill { kernel: kernel.to_owned(), architecture: architecture.to_owned(), stored_bytes, loaded_bytes }
}

#[test]
fn spills_are_found_with_kernel_architecture_and_bytes() {
    let expected = [
        spill("_Z17segment_attentionILi64EEvPfi", "sm_90", 1216, 1260),
        spill("add", "sm_80", 0, 4),
        spill("add", "sm_80", 12, 0),
    ];
    assert_eq!(spills(LOG), expected);
    assert_eq!(expected[1].to_string(), "add spills registers on sm_80: 0 bytes stored, 4 loaded");
}

#[test]
fn a_log_without_spills_has_none() {
    assert_eq!(spills(""), []);
    assert_eq!(spills(&LOG[..LOG.find("ptxas info    : Compiling entry function '_Z17").unwrap()]), []);
}
