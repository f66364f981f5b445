//! The metadata that only gRPC has.

use super::*;

#[test]
fn a_timeout_has_digits_and_a_unit() {
    let read = |text: &str| timeout(&[(TIMEOUT.parse().unwrap(), text.parse().unwrap())].into_iter().collect());
    for (text, expected) in [
        ("1H", Duration::from_secs(3600)),
        ("2M", Duration::from_secs(120)),
        ("3S", Duration::from_secs(3)),
        ("4m", Duration::from_millis(4)),
        ("5u", Duration::from_micros(5)),
        ("99999999n", Duration::from_nanos(99_999_999)),
        ("0n", Duration::ZERO),
    ] {
        assert_eq!(read(text), Ok(Some(expected)), "{text}");
    }
    for text in ["", "S", "1", "1s", "-1S", "+1S", "123456789S", "1 S"] {
        assert!(read(text).is_err(), "{text:?}");
    }
    assert_eq!(timeout(&HeaderMap::new()), Ok(None));
}
