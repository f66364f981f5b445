//! Headers are read, or refused with their name.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn caller(pairs: &[(&'static str, &str)], timeout: Option<Duration>) -> Result<Caller, Problem> {
    let tenants = Tenants([("lab".to_owned(), NonZeroU32::new(2).unwrap())].into());
    let headers = pairs.iter().map(|(key, value)| (key.parse().unwrap(), value.parse().unwrap())).collect();
    Caller::new(&headers, timeout, &tenants, MINUTE)
}

#[test]
fn an_answer_leaves_before_the_client_stops_listening() {
    let left = |timeout| {
        let caller = caller(&[], timeout).unwrap();
        caller.deadline - caller.received
    };
    let millis = |count| Some(Duration::from_millis(count));
    assert_eq!((left(millis(10_000)), left(millis(100))), (Duration::from_millis(9900), Duration::from_millis(95)));
    assert_eq!((left(Some(Duration::MAX)), left(None)), (FAR, MINUTE));
    for passed in [Duration::ZERO, Duration::from_nanos(1), Duration::from_micros(999)] {
        assert_eq!(caller(&[], Some(passed)).unwrap_err(), Problem::deadline(), "{passed:?}");
    }
}

#[test]
fn a_tenant_has_a_short_name_and_a_weight() {
    let known = caller(&[(TENANT_KEY, "lab")], None).unwrap();
    assert_eq!((known.tenant.as_str(), known.weight.get()), ("lab", 2));
    assert_eq!(caller(&[], None).unwrap().tenant.as_str(), "default");
    assert!(caller(&[(TENANT_KEY, "")], None).is_err());
    assert!(caller(&[(TENANT_KEY, &"x".repeat(65))], None).is_err());
}

#[test]
fn only_a_well_formed_trace_is_carried_on() {
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let carried = |text: &str| caller(&[(trace::TRACEPARENT, text)], None).unwrap().traceparent;
    assert_eq!(&*carried(good), good);
    for bad in ["", "00-1-2-01", &good[1..], &good.replace('a', "x")] {
        assert_eq!(&*carried(bad), "", "{bad}");
    }
}
