//! Tensors in every dtype and slice, and files that are damaged, incomplete or made up.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

use super::*;

/// A file of tensors, made by the safetensors crate.
fn write(path: &Path, tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> PathBuf {
    let views: BTreeMap<_, _> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap()))
        .collect();
    std::fs::write(path, safetensors::serialize(&views, None).unwrap()).unwrap();
    path.to_owned()
}

/// A checkpoint of one file.
fn checkpoint(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> (TempDir, Weights) {
    let folder = tempfile::tempdir().unwrap();
    let file = write(&folder.path().join("model.safetensors"), tensors);
    (folder, Weights::open(&[file]).unwrap())
}

/// A file with a header of our own, and zeros as data.
fn made_up(header: impl AsRef<[u8]>, length: u64, data: usize) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made-up.safetensors");
    let bytes = [&length.to_le_bytes(), header.as_ref(), &vec![0; data]].concat();
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// Different small numbers, which every dtype holds exactly.
fn number(i: usize) -> f32 {
    ((i * 7919) % 251) as f32 - 125.0
}

fn encode(dtype: Dtype, values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    let bytes = |value: f32| match dtype {
        Dtype::F32 => value.to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        _ => bf16::from_f32(value).to_le_bytes().to_vec(),
    };
    values.into_iter().flat_map(bytes).collect()
}

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_finite_half_is_converted_exactly() {
    // f16: sign, 5 bits of exponent with a bias of 15, 10 bits of fraction; bf16: the upper half of an f32
    let f16_value = |bits: u16| {
        let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
        let size = match exponent {
            0 => fraction * 2f64.powi(-24),
            _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
        };
        (if bits >> 15 == 1 { -size } else { size }) as f32
    };
    let bf16_value = |bits: u16| f32::from_bits(u32::from(bits) << 16);
    check_all(Dtype::F16, &f16_value, 31 << 10);
    check_all(Dtype::BF16, &bf16_value, 255 << 7);

    fn check_all(dtype: Dtype, value: &dyn Fn(u16) -> f32, exponent: u16) {
        let finite: Vec<u16> = (0..=u16::MAX).filter(|bits| bits & exponent != exponent).collect();
        let bytes: Vec<u8> = finite.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let expected: Vec<f32> = finite.iter().map(|&bits| value(bits)).collect();
        let (len, shape) = (finite.len(), [finite.len() / 64, 64]);
        let (_folder, weights) = checkpoint(&[("v", dtype, &[len], bytes.clone()), ("m", dtype, &shape, bytes)]);
        assert_eq!(bits(&weights.vector(&VectorSlice::whole("v", len)).unwrap()), bits(&expected), "{dtype}");
        assert_eq!(bits(&weights.matrix("m", shape).unwrap()), bits(&expected), "{dtype}");
        let slice = Slice { name: "m".into(), shape, rows: 0..shape[0], columns: 0..64 };
        let transposed = weights.transposed(&[slice]).unwrap();
        for (i, value) in expected.iter().enumerate() {
            assert_eq!(transposed[i % 64 * shape[0] + i / 64].to_bits(), value.to_bits(), "{dtype} {i}");
        }
    }
}

#[test]
fn f32_is_kept_as_it_is() {
    let values = [0.0, -0.0, 1e-45, f32::MIN_POSITIVE, f32::MAX, f32::MIN, 0.1, -1.0];
    let (_folder, weights) = checkpoint(&[("v", Dtype::F32, &[8], encode(Dtype::F32, values))]);
    assert_eq!(bits(&weights.vector(&VectorSlice::whole("v", 8)).unwrap()), bits(&values));
}

#[test]
fn a_matrix_longer_than_one_read_is_read_in_order() {
    for dtype in DTYPES {
        let shape = [700, 1001];
        let values: Vec<f32> = (0..shape[0] * shape[1]).map(number).collect();
        let (_folder, weights) = checkpoint(&[("m", dtype, &shape, encode(dtype, values.iter().copied()))]);
        assert!(weights.matrix("m", shape).unwrap() == values, "{dtype}");
    }
}

/// One of the matrices that are taken together: its shape, and which rows (the columns are the same for all).
type Part = (usize, Range<usize>);

/// Reads slices of several matrices side by side, and compares them with a transposition number by number.
fn check_transposed(dtype: Dtype, stored_columns: usize, columns: Range<usize>, parts: &[Part]) {
    let names: Vec<String> = (0..parts.len()).map(|i| format!("m{i}")).collect();
    let value = |part: usize, row: usize, column: usize| number(part * 1009 + row * stored_columns + column);
    let shapes: Vec<[usize; 2]> = parts.iter().map(|(rows, _)| [*rows, stored_columns]).collect();
    let tensors: Vec<_> = (0..parts.len())
        .map(|part| {
            // what other ranks own would be noticed
            let stored = |i: usize| match (i / stored_columns, i % stored_columns) {
                (row, column) if columns.contains(&column) && parts[part].1.contains(&row) => value(part, row, column),
                _ => f32::NAN,
            };
            let numbers = (0..shapes[part][0] * stored_columns).map(stored);
            (names[part].as_str(), dtype, &shapes[part][..], encode(dtype, numbers))
        })
        .collect();
    let (_folder, weights) = checkpoint(&tensors);
    let slices: Vec<_> = (0..parts.len())
        .map(|part| Slice {
            name: names[part].clone(),
            shape: shapes[part],
            rows: parts[part].1.clone(),
            columns: columns.clone(),
        })
        .collect();
    let expected: Vec<f32> = columns
        .clone()
        .flat_map(|column| {
            let of_part = move |part: usize| parts[part].1.clone().map(move |row| value(part, row, column));
            (0..parts.len()).flat_map(of_part)
        })
        .collect();
    let got = weights.transposed(&slices).unwrap();
    assert!(got == expected, "{dtype}, columns {columns:?} of {stored_columns}, {parts:?}");
}

fn range_within(most: usize) -> impl Strategy<Value = (usize, Range<usize>)> {
    (1..=most).prop_flat_map(|size| {
        let range = (0..size).prop_flat_map(move |start| (Just(start), start + 1..=size));
        (Just(size), range.prop_map(|(start, end)| start..end))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn slices_are_transposed_and_laid_side_by_side(
        dtype in prop::sample::select(DTYPES.to_vec()),
        (stored_columns, columns) in range_within(70),
        parts in prop::collection::vec(range_within(70), 1..4),
    ) {
        check_transposed(dtype, stored_columns, columns, &parts);
    }
}

#[test]
fn slices_of_several_panels_are_transposed() {
    // whole rows, of which a panel holds 1,024; rows from within; columns of a rank
    check_transposed(Dtype::BF16, 4100, 0..4100, &[(1150, 0..1150), (17, 0..17)]);
    check_transposed(Dtype::F32, 2100, 0..2100, &[(1200, 3..1190)]);
    check_transposed(Dtype::F16, 4400, 2200..4400, &[(2000, 0..2000)]);
    // rows longer than a read
    check_transposed(Dtype::F32, 300_001, 0..300_001, &[(9, 0..9)]);
}

#[test]
fn the_ranks_slices_make_up_the_whole() {
    let (rows, columns) = (24, 40);
    let values: Vec<f32> = (0..rows * columns).map(number).collect();
    let (_folder, weights) = checkpoint(&[("m", Dtype::F16, &[rows, columns], encode(Dtype::F16, values))]);
    let read = |rows: Range<usize>, columns: Range<usize>| {
        weights.transposed(&[Slice { name: "m".into(), shape: [24, 40], rows, columns }]).unwrap()
    };
    let whole = read(0..rows, 0..columns);
    // split by input: the ranks' rows of the transposed matrix, one after another
    let by_input: Vec<f32> = (0..4).flat_map(|rank| read(0..rows, rank * 10..(rank + 1) * 10)).collect();
    assert_eq!(by_input, whole);
    // split by output: the ranks' columns, side by side
    let by_output: Vec<_> = (0..4).map(|rank| read(rank * 6..(rank + 1) * 6, 0..columns)).collect();
    let joined: Vec<f32> =
        (0..columns).flat_map(|row| by_output.iter().flat_map(move |o| o[row * 6..][..6].to_vec())).collect();
    assert_eq!(joined, whole);
}

/// The message of a tensor's error, which names the tensor and the file.
fn tensor_problem(error: Error, name: &str) -> String {
    match error {
        Error::Tensor { file, tensor, problem } => {
            assert!(file.ends_with("model.safetensors") && tensor == name, "{} {tensor}", file.display());
            problem
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn numbers_that_are_not_finite_are_refused_wherever_they_are() {
    let (rows, columns) = (37, 50);
    let len = rows * columns;
    for dtype in DTYPES {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 15, 16 * columns + 17, len - columns, len - 1] {
                let values = || (0..len).map(|i| if i == at { bad } else { number(i) });
                let (_folder, weights) = checkpoint(&[
                    ("v", dtype, &[len], encode(dtype, values())),
                    ("m", dtype, &[rows, columns], encode(dtype, values())),
                ]);
                let problem = "holds a number that is not finite (NaN or infinite)";
                assert_eq!(tensor_problem(weights.vector(&VectorSlice::whole("v", len)).unwrap_err(), "v"), problem);
                assert_eq!(tensor_problem(weights.matrix("m", [rows, columns]).unwrap_err(), "m"), problem);
                let slice = Slice { name: "m".into(), shape: [rows, columns], rows: 0..rows, columns: 0..columns };
                assert_eq!(tensor_problem(weights.transposed(&[slice]).unwrap_err(), "m"), problem, "{dtype} {at}");
            }
        }
    }
}

#[test]
fn the_last_number_of_many_panels_is_looked_at_too() {
    let (rows, columns) = (2200, 2000);
    let len = rows * columns;
    let values = (0..len).map(|i| if i == len - 1 { f32::NAN } else { 1.0 });
    let (_folder, weights) = checkpoint(&[("m", Dtype::BF16, &[rows, columns], encode(Dtype::BF16, values))]);
    assert!(weights.matrix("m", [rows, columns]).is_err());
    let slice = |rows, columns| Slice { name: "m".into(), shape: [2200, 2000], rows, columns };
    assert!(weights.transposed(&[slice(0..rows, 0..columns)]).is_err());
    assert!(weights.transposed(&[slice(0..rows, 1000..columns)]).is_err());
    assert!(weights.transposed(&[slice(0..rows, 0..1000)]).is_ok());
    assert!(weights.transposed(&[slice(0..rows - 1, 0..columns)]).is_ok());
}

#[test]
fn unfit_tensors_are_refused_by_name() {
    let (_folder, weights) = checkpoint(&[
        ("square", Dtype::F32, &[2, 2], vec![0; 16]),
        ("integers", Dtype::I32, &[2, 2], vec![0; 16]),
        ("double", Dtype::F64, &[2], vec![0; 16]),
    ]);
    let square = |shape| tensor_problem(weights.matrix("square", shape).unwrap_err(), "square");
    assert_eq!(square([4, 1]), "shape is [2, 2], expected [4, 1]");
    assert_eq!(square([2, 3]), "shape is [2, 2], expected [2, 3]");
    let flat = tensor_problem(weights.vector(&VectorSlice::whole("square", 4)).unwrap_err(), "square");
    assert_eq!(flat, "shape is [2, 2], expected [4]");
    let integers = tensor_problem(weights.matrix("integers", [2, 2]).unwrap_err(), "integers");
    assert_eq!(integers, "dtype is I32, expected F32, F16 or BF16");
    let double = tensor_problem(weights.vector(&VectorSlice::whole("double", 2)).unwrap_err(), "double");
    assert_eq!(double, "dtype is F64, expected F32, F16 or BF16");
    let slice = Slice { name: "square".into(), shape: [2, 3], rows: 0..1, columns: 0..3 };
    assert!(matches!(weights.transposed(&[slice]), Err(Error::Tensor { .. })));
    let missing = weights.vector(&VectorSlice::whole("absent", 2)).unwrap_err().to_string();
    assert!(missing.starts_with("tensor absent is in none of the checkpoint's 1 safetensors file(s) ("), "{missing}");
    assert!(missing.contains("model.safetensors"), "{missing}");
}

#[test]
fn tensors_are_found_in_every_file_and_only_once() {
    let folder = tempfile::tempdir().unwrap();
    let tensor = |value: f32| (Dtype::F32, &[1usize][..], encode(Dtype::F32, [value]));
    let file = |name: &str, tensors: &[(&str, f32)]| {
        let tensors: Vec<_> = tensors.iter().map(|&(name, value)| (name, tensor(value))).collect();
        let tensors: Vec<_> = tensors.into_iter().map(|(name, (d, s, b))| (name, d, s, b)).collect();
        write(&folder.path().join(name), &tensors)
    };
    let first = file("model-1.safetensors", &[("a", 1.0), ("b", 2.0)]);
    let second = file("model-2.safetensors", &[("c", 3.0), ("d", 4.0)]);
    let weights = Weights::open(&[first.clone(), second.clone()]).unwrap();
    assert_eq!(weights.unused(), ["a", "b", "c", "d"]);
    assert_eq!(weights.vector(&VectorSlice::whole("c", 1)).unwrap(), [3.0]);
    assert_eq!(weights.vector(&VectorSlice::whole("a", 1)).unwrap(), [1.0]);
    assert!(weights.vector(&VectorSlice::whole("d", 2)).is_err());
    assert_eq!(weights.unused(), ["b", "d"]);
    let again = file("model-3.safetensors", &[("b", 5.0)]);
    let error = Weights::open(&[first, second, again]).err().unwrap().to_string();
    for part in ["model-3.safetensors: tensor b: is also in ", "model-1.safetensors"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_tensor_in_two_shards_is_taken_from_the_one_that_the_index_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, value: f32| {
        write(&folder.path().join(name), &[("b", Dtype::F32, &[1], encode(Dtype::F32, [value]))])
    };
    let files = [file("model-1.safetensors", 1.0), file("model-2.safetensors", 2.0)];
    let named = |shard: &str| {
        std::fs::write(folder.path().join(INDEX), format!(r#"{{"weight_map": {{"b": "{shard}"}}}}"#)).unwrap();
        Weights::open(&files).map(|weights| weights.vector(&VectorSlice::whole("b", 1)).unwrap()[0])
    };
    assert_eq!(named("model-1.safetensors").unwrap(), 1.0);
    assert_eq!(named("model-2.safetensors").unwrap(), 2.0);
    assert!(named("model-3.safetensors").unwrap_err().to_string().contains("does not say which"));
}

#[test]
fn tensors_are_found_with_and_without_the_prefix_of_the_base() {
    let folder = tempfile::tempdir().unwrap();
    let one = |name: &'static str, value: f32| (name, Dtype::F32, &[1usize][..], encode(Dtype::F32, [value]));
    let path = folder.path().join("model.safetensors");
    let names = [one("model.score.weight", 1.0), one("norm.weight", 2.0), one("x", 3.0), one("model.x", 4.0)];
    let weights = Weights::open(&[write(&path, &names)]).unwrap();
    let vector = |name: &str| weights.vector(&VectorSlice::whole(name, 1)).map(|values| values[0]);
    assert_eq!(vector("score.weight").unwrap(), 1.0);
    assert_eq!(vector("model.norm.weight").unwrap(), 2.0);
    assert!(vector("x").unwrap_err().to_string().contains("they mean the same"));
    assert_eq!(weights.unused(), ["model.x", "x"]);
}

#[test]
fn what_an_adapter_or_a_value_head_left_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (name, hint) in [
        ("model.layers.0.self_attn.q_proj.base_layer.weight", "merge_and_unload"),
        ("score.modules_to_save.default.weight", "merge_and_unload"),
        ("v_head.summary.weight", "score.weight"),
        ("value_head.weight", "score.weight"),
    ] {
        let path = write(&folder.path().join("m"), &[(name, Dtype::F32, &[1], encode(Dtype::F32, [1.0]))]);
        let error = Weights::open(&[path]).unwrap().vector(&VectorSlice::whole("score.weight", 1)).unwrap_err();
        assert!(error.to_string().contains(hint), "{error}");
    }
}

#[test]
fn a_file_that_was_cut_off_is_refused_wherever_it_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(
        &folder.path().join("model.safetensors"),
        &[("a", Dtype::F32, &[3], vec![0; 12]), ("b", Dtype::BF16, &[2, 2], vec![0; 8])],
    );
    let whole = std::fs::read(&path).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = Weights::open(std::slice::from_ref(&path)).err().unwrap().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{length}: {error}");
        if length >= whole.len() - 8 {
            assert!(error.contains("was cut off") && error.contains("tensor b"), "{length}: {error}");
        }
    }
    std::fs::write(&path, &whole).unwrap();
    let weights = Weights::open(std::slice::from_ref(&path)).unwrap();
    // cut off while it is open
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert!(weights.vector(&VectorSlice::whole("a", 3)).is_ok());
    let error = tensor_problem(weights.matrix("b", [2, 2]).unwrap_err(), "b");
    assert!(error.contains("cannot be read"), "{error}");
}

#[test]
fn headers_that_lie_are_refused() {
    let refused = |header: &str, length: Option<u64>, words: &str| {
        let (_folder, path) = made_up(header, length.unwrap_or(header.len() as u64), 64);
        let error = Weights::open(std::slice::from_ref(&path)).err().unwrap_or_else(|| panic!("{header} was taken"));
        let message = error.to_string();
        assert!(message.starts_with(&path.display().to_string()) && message.contains(words), "{header}: {message}");
    };
    for length in [u64::MAX, u64::MAX - 7, 1 << 63, 1 << 40, 100_000_001, 67] {
        refused("{}", Some(length), "the header would be");
    }
    for text in ["", "{", "[]", "3", "\u{0}\u{0}", "{\"a\": 1}", "{\"a\": {}}"] {
        refused(text, None, "malformed header");
    }
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let one = |tensor: String| format!(r#"{{"a":{tensor}}}"#);
    let two = |a: String, b: String| format!(r#"{{"a":{a},"b":{b}}}"#);
    let good = tensor("F32", "[2]", "[0,8]");
    for header in [
        one(tensor("F99", "[2]", "[0,8]")),
        one(tensor("F32", "[-2]", "[0,8]")),
        one(tensor("F32", "[2.5]", "[0,8]")),
        one(tensor("F32", "[2]", "[-8,0]")),
        one(tensor("F32", "[2]", "[0,9]")),
        one(tensor("F32", "[2]", "[8,0]")),
        one(tensor("F32", "[2]", "[0]")),
        one(tensor("F32", "[3]", "[0,8]")),
        one(tensor("F4", "[3]", "[0,2]")),
        one(tensor("F32", "[4294967296,4294967296]", "[0,0]")),
        one(tensor("F32", "[4294967296,4294967296]", "[8,0]")),
        one(tensor("F32", "[9223372036854775808,2]", "[0,18446744073709551615]")),
        one(tensor("BF16", "[9223372036854775807]", "[0,18446744073709551614]")),
        one(tensor("F32", "[18446744073709551616]", "[0,8]")),
        two(good.clone(), good.clone()),
        two(good.clone(), tensor("F32", "[2]", "[4,12]")),
        two(good.clone(), tensor("F32", "[2]", "[16,24]")),
    ] {
        refused(&header, None, "");
    }
    refused(&two(good, tensor("F32", "[15]", "[8,68]")), None, "tensor b: ends at byte");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("absent.safetensors"), folder.path().to_owned()] {
        let error = Weights::open(std::slice::from_ref(&path)).err().unwrap().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
    }
    let error = Weights::open(&[]).unwrap().vector(&VectorSlice::whole("a", 1)).unwrap_err().to_string();
    assert!(error.starts_with("tensor a is in none of the checkpoint's 0 safetensors file(s)"), "{error}");
}

/// Whatever the header is: tensors that can be read, or an error that names the file.
fn survives(header: &[u8], length: u64) {
    let (_folder, path) = made_up(header, length, 40);
    match Weights::open(std::slice::from_ref(&path)) {
        Ok(weights) => {
            for (name, (_, stored)) in &weights.tensors {
                match stored.shape[..] {
                    [len] => drop(weights.vector(&VectorSlice::whole(name, len))),
                    [rows, columns] => drop(weights.matrix(name, [rows, columns])),
                    _ => {}
                }
            }
        }
        Err(error) => assert!(error.to_string().starts_with(&path.display().to_string()), "{error}"),
    }
}

proptest! {
    #[test]
    fn no_header_panics(bytes in prop::collection::vec(any::<u8>(), 0..60), length in any::<u64>()) {
        survives(&bytes, bytes.len() as u64);
        survives(&bytes, length);
    }

    #[test]
    fn no_damaged_header_panics(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut header = br#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[8],"data_offsets":[24,40]}}"#.to_vec();
        for (index, byte) in damage {
            let at = index.index(header.len());
            // digits become other digits more often than not
            header[at] = if header[at].is_ascii_digit() && byte < 200 { b'0' + byte % 10 } else { byte };
        }
        survives(&header, header.len() as u64);
    }

    #[test]
    fn no_numbers_in_a_header_panic(
        dtype in prop::sample::select(vec!["F32", "F16", "BF16", "I32", "F4", "BOOL"]),
        shape in prop::collection::vec(prop_oneof![0u64..5, any::<u64>()], 0..4),
        (from, to) in (prop_oneof![0u64..50, any::<u64>()], prop_oneof![0u64..50, any::<u64>()]),
    ) {
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{from},{to}]}}}}"#);
        survives(header.as_bytes(), header.len() as u64);
    }
}
