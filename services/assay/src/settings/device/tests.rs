//! How devices are written, which GPU each rank gets, and what is said of what cannot be.

use super::*;

fn parse(text: &str) -> Result<Devices, String> {
    text.parse()
}

#[test]
fn each_rank_has_its_device() {
    let cuda = |ordinals: &[usize]| ordinals.iter().copied().map(Device::Cuda).collect::<Vec<_>>();
    for (text, ranks, devices) in [
        ("cpu", 2, vec![Device::Cpu; 2]),
        ("cuda", 1, cuda(&[0])),
        ("cuda", 4, cuda(&[0, 1, 2, 3])),
        ("cuda:3", 2, cuda(&[3, 4])),
        ("cuda:1", 1, cuda(&[1])),
        ("cuda:2,0", 2, cuda(&[2, 0])),
        ("cuda:0,0", 2, cuda(&[0, 0])),
    ] {
        assert_eq!(parse(text).unwrap().of_ranks(ranks).unwrap(), devices, "{text}");
    }
}

#[test]
fn what_is_no_device_is_refused_with_what_would_be() {
    for text in
        ["", "gpu", "CUDA", "cuda:", "cuda:a", "cuda:-1", "cuda:0,", "cuda:,1", "cuda:1, 2", "cpu:0", "cuda:5000"]
    {
        let said = format!("{text:?} is no device, expected cpu, cuda, cuda:N or cuda:N,M,...");
        assert_eq!(parse(text).unwrap_err(), said);
    }
}

#[test]
fn a_list_names_a_gpu_for_each_rank() {
    let said = "device cuda:0,1 names 2 GPUs, and this process has 3 ranks: name one for each, or the first alone";
    assert_eq!(parse("cuda:0,1").unwrap().of_ranks(3).unwrap_err().to_string(), said);
}

#[test]
fn more_ranks_than_there_can_be_are_refused() {
    for text in ["cpu", "cuda", "cuda:1"] {
        let refused = |replicas, ranks| parse(text).unwrap().of_replicas(replicas, ranks).unwrap_err().to_string();
        assert!(refused(1, usize::MAX).contains("at most 65536"), "{text}");
        assert!(refused(usize::MAX, 2).contains("at most 65536"), "{text}");
    }
}

#[test]
fn a_replica_takes_the_gpus_after_those_of_the_one_before() {
    let of_replicas = |text: &str, replicas, ranks| {
        let devices = parse(text).unwrap().of_replicas(replicas, ranks);
        devices.map(|devices| devices.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(of_replicas("cpu", 2, 2).unwrap(), ["cpu", "cpu"]);
    assert_eq!(of_replicas("cuda", 3, 2).unwrap(), ["cuda", "cuda:2", "cuda:4"]);
    assert_eq!(of_replicas("cuda:1", 2, 1).unwrap(), ["cuda:1", "cuda:2"]);
    assert_eq!(of_replicas("cuda:3,2,1,0", 2, 2).unwrap(), ["cuda:3,2", "cuda:1,0"]);
    assert!(of_replicas("cuda:0,1", 2, 2).unwrap_err().to_string().contains("has 4 ranks"));
    // a part of a list is a list, of one GPU too
    let parts = parse("cuda:5,5").unwrap().of_replicas(2, 1).unwrap();
    assert_eq!(parts[1].of_ranks(1).unwrap(), [Device::Cuda(5)]);
}

#[test]
fn numbers_are_those_of_the_device_unless_told_otherwise() {
    let dtype = |text: &str, name| parse(text).unwrap().computes(name, 1, 8).map(|computes| computes[0].dtype);
    assert_eq!(dtype("cpu", None).unwrap(), Dtype::F32);
    assert_eq!(dtype("cuda", None).unwrap(), Dtype::Bf16);
    assert_eq!(dtype("cuda", Some(DtypeName::F32)).unwrap(), Dtype::F32);
    assert_eq!(dtype("cuda", Some(DtypeName::F16)).unwrap(), Dtype::F16);
    let refused = dtype("cpu", Some(DtypeName::Bf16)).unwrap_err().to_string();
    assert!(refused.contains("f32 only") && refused.contains("device cuda"), "{refused}");
}

#[test]
fn text_and_devices_are_the_same_both_ways() {
    for text in ["cpu", "cuda", "cuda:1", "cuda:0,0", "cuda:3,1,2"] {
        assert_eq!(parse(text).unwrap().to_string(), text);
    }
    assert_eq!(parse("cuda:0").unwrap(), parse("cuda").unwrap());
}
