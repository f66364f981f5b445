//! What is given costs what is rendered of it.

use prompt::Role;

use super::*;

#[test]
fn a_group_costs_its_prompt_for_each_response() {
    let prompt = vec![Message::new(Role::User, "x".repeat(1000))];
    let responses = ["aa", "bb", "cc"].map(str::to_owned).to_vec();
    assert_eq!(Given::new(3, Ok(Input::Group { prompt, responses })).bytes, 3006 + 3 * EACH);
}

#[test]
fn more_conversations_than_there_is_room_for_are_not_looked_at() {
    let most = ROOM / EACH;
    assert_eq!(Given::check_room(most), Ok(()));
    assert_eq!(Given::check_room(most + 1), Err(Problem::too_large(ROOM + EACH)));
    assert!(Given::check_room(usize::MAX).is_err());
}
