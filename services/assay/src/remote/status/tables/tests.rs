//! Tables are read by people: columns stand under each other, and nothing is said twice.

use super::super::tests::read;
use super::*;

#[test]
fn a_reading_is_three_tables() {
    let expected = "\
gateway gw-0

MODEL    GENERATION  FINGERPRINT   READY  STANDBY  OPEN  WAITING  SENT  TOKENS/S  RETRIED
skywork           3  0123456789ab      1        2    40    12000   800      1234        1

REPLICA  MODEL    STATE  EPOCH  RANKS                     ADDRESS         REASON
r0       skywork  ready      7  2/2 serving               10.0.0.1:50061
r1       skywork  lost       7  2/4 (1 ready, 2 loading)  10.0.0.1:50061  connection refused

MODEL    TENANT  WAITING  OLDEST
skywork  team-a    12000   2.2 s
";
    assert_eq!(of(&read()), expected);
}

#[test]
fn a_gateway_with_nothing_has_no_tables() {
    let empty = GetStatusResponse { gateway: "gw".to_owned(), ..GetStatusResponse::default() };
    assert_eq!(of(&empty), "gateway gw\n");
}
