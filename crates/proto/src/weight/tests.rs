//! What a message weighs is about what decoding it takes, and never a fraction of it.

use super::*;
use crate::Message as _;
use crate::v1::item::Input;
use crate::v1::{self, group};

fn item(input: Input) -> Item {
    Item { input: Some(input) }
}

fn group(responses: usize) -> Item {
    let (prompt, responses) = (Some(group::Prompt::Text("p".to_owned())), vec![String::new(); responses]);
    item(Input::Group(v1::Group { prompt, responses }))
}

#[test]
fn what_small_parts_become_is_counted() {
    let request = |item: &Item| v1::ScoreStreamRequest { id: 7, item: Some(item.clone()), options: None };
    let turns = v1::Messages { messages: vec![Message::default(); 100] };
    let cases = [
        (item(Input::Text("x".repeat(5000))), 1, size_of::<Item>()),
        (group(1000), 1000, 1000 * size_of::<String>()),
        (item(Input::Messages(turns)), 1, 100 * size_of::<Message>()),
        (item(Input::TokenIds(v1::TokenIds { ids: vec![1; 3000] })), 1, 3000 * 4),
    ];
    for (item, conversations, takes) in cases {
        let least = conversations * CONVERSATION + takes;
        let streamed = weight("/assay.v1.RewardService/ScoreStream", &request(&item).encode_to_vec());
        assert!((least..2 * least + 4096).contains(&streamed), "{streamed}, and it takes {least}");
        let items = v1::ScoreRequest { items: vec![item; 3], options: None }.encode_to_vec();
        for rpc in ["Score", "Tokenize"] {
            assert_eq!(weight(&format!("/assay.v1.RewardService/{rpc}"), &items), 3 * streamed);
        }
        assert_eq!(weight("/grpc.health.v1.Health/Check", &items), 0);
    }
}

#[test]
fn ids_that_are_not_packed_count_too() {
    // field 4 of an item holds field 1 three times, each a number by itself
    let ids = [8, 1, 8, 2, 8, 3];
    let item = [&[0x22, ids.len() as u8][..], &ids].concat();
    let message = [&[0x12, item.len() as u8][..], &item].concat();
    let decoded = v1::ScoreStreamRequest::decode(&*message).unwrap().item.unwrap();
    assert_eq!(decoded.input, Some(Input::TokenIds(v1::TokenIds { ids: vec![1, 2, 3] })));
    let weight = weight("/assay.v1.RewardService/ScoreStream", &message);
    assert_eq!(weight, ITEM.size + 3 * size_of::<u32>());
}

#[test]
fn any_bytes_have_a_weight() {
    let whole = v1::ScoreRequest { items: vec![group(20); 5], options: None }.encode_to_vec();
    for length in 0..whole.len() {
        assert!(
            weight("/assay.v1.RewardService/Score", &whole[..length])
                <= weight("/assay.v1.RewardService/Score", &whole)
        );
    }
    let mut state = 7_u64;
    for _ in 0..10_000 {
        let mut bytes = whole.clone();
        for _ in 0..8 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let place = (state >> 33) as usize % bytes.len();
            bytes[place] = (state >> 20) as u8;
        }
        // it grows with the bytes, and no faster than by the heaviest part
        let most = bytes.len() * (CONVERSATION + size_of::<Message>() + 64);
        assert!(weight("/assay.v1.RewardService/Score", &bytes) <= most);
        let _ = v1::ScoreRequest::decode(&*bytes);
    }
}
