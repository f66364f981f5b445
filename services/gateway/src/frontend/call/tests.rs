//! Metadata is read, or refused with its name.

use super::*;

fn metadata(pairs: &[(&'static str, &str)]) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    for (key, value) in pairs {
        metadata.insert(*key, value.parse().unwrap());
    }
    metadata
}

fn call(pairs: &[(&'static str, &str)]) -> Result<Call, Problem> {
    let two = NonZeroU32::new(2).unwrap();
    let tenants = Tenants { weights: [("lab".to_owned(), two)].into() };
    Call::new(&metadata(pairs), &tenants, Duration::from_secs(60))
}

#[test]
fn a_timeout_has_digits_and_a_unit() {
    let read = |text: &str| timeout(&metadata(&[(TIMEOUT, text)]));
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
    assert_eq!(timeout(&MetadataMap::new()), Ok(None));
}

#[test]
fn an_answer_leaves_before_the_client_stops_listening() {
    let left = |text: &str| {
        let call = call(&[(TIMEOUT, text)]).unwrap();
        call.deadline - call.received
    };
    assert_eq!((left("10S"), left("100m")), (Duration::from_millis(9900), Duration::from_millis(95)));
    assert_eq!(left("99999999H"), FAR);
    for passed in ["0S", "1n", "999u"] {
        assert_eq!(call(&[(TIMEOUT, passed)]).unwrap_err(), Problem::deadline(), "{passed}");
    }
    let call = call(&[]).unwrap();
    assert_eq!(call.deadline - call.received, Duration::from_secs(60));
}

#[test]
fn a_tenant_has_a_short_name_and_a_weight() {
    let known = call(&[(TENANT_KEY, "lab")]).unwrap();
    assert_eq!((known.tenant.as_str(), known.weight.get()), ("lab", 2));
    assert_eq!(call(&[]).unwrap().tenant.as_str(), "default");
    assert!(call(&[(TENANT_KEY, "")]).is_err());
    assert!(call(&[(TENANT_KEY, &"x".repeat(65))]).is_err());
}

#[test]
fn only_a_well_formed_trace_is_carried_on() {
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(&*call(&[(trace::TRACEPARENT, good)]).unwrap().traceparent, good);
    for bad in ["", "00-1-2-01", &good[1..], &good.replace('a', "x")] {
        assert_eq!(&*call(&[(trace::TRACEPARENT, bad)]).unwrap().traceparent, "", "{bad}");
    }
}
