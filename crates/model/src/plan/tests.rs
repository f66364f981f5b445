//! Row blocks, tiles, pooled rows and key runs of random prefix trees.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::batch::Packer;

const TILE_ROWS: usize = 32;

/// Groups that share a prompt, some of them longer than a tile.
fn batches() -> impl Strategy<Value = PackedBatch> {
    let sequence = (0u32..3, 0usize..90, prop::collection::vec(0u32..2, 1..50));
    prop::collection::vec(sequence, 1..12).prop_map(|sequences| {
        let mut packer = Packer::default();
        for (prompt, len, response) in sequences {
            let prompt = (0..len).map(|i| 10 + prompt + (i as u32 % 5));
            packer.push(prompt.chain(response).collect::<Arc<[u32]>>());
        }
        packer.pack()
    })
}

/// The position of each row, from the segments.
fn positions(batch: &PackedBatch) -> Vec<u32> {
    let of_segment = |segment: &Segment| segment.position as u32..(segment.position + segment.rows.len()) as u32;
    batch.segments.iter().flat_map(of_segment).collect()
}

/// The tiles of a block lie one after another, each in one segment, and know their positions.
fn check_tiles(batch: &PackedBatch, block: &Rows) {
    assert_eq!(block.sources.len(), block.positions.len());
    let mut row = 0;
    for tile in &block.tiles {
        assert_eq!(tile.rows.start, row);
        assert!((1..=TILE_ROWS).contains(&tile.rows.len()), "a tile of {} rows", tile.rows.len());
        let segment = &batch.segments[tile.segment];
        for row in tile.rows.clone() {
            assert!(segment.rows.contains(&(block.sources[row] as usize)));
            assert_eq!(block.positions[row] as usize, tile.position + row - tile.rows.start);
        }
        row = tile.rows.end;
    }
    assert_eq!(row, block.positions.len());
}

fn check_blocks(batch: &PackedBatch, plan: &StepPlan, most: usize) {
    let sources: Vec<u32> = plan.blocks.iter().flat_map(|block| block.sources.clone()).collect();
    assert_eq!(sources, (0..batch.tokens.len() as u32).collect::<Vec<_>>());
    let found: Vec<u32> = plan.blocks.iter().flat_map(|block| block.positions.clone()).collect();
    assert_eq!(found, positions(batch));
    assert_eq!(plan.positions, positions(batch).into_iter().max().unwrap() as usize + 1);
    for block in &plan.blocks {
        assert!((1..=most).contains(&block.positions.len()));
        check_tiles(batch, block);
        // no tile is shorter than it must be: it ends with the block or the segment, or is full
        for (tile, next) in block.tiles.iter().zip(block.tiles.iter().skip(1)) {
            assert!(tile.rows.len() == TILE_ROWS || tile.segment != next.segment);
        }
    }
}

fn check_pooled(batch: &PackedBatch, plan: &StepPlan, most: usize) {
    let sources: Vec<u32> = plan.pooled.iter().flat_map(|block| block.sources.clone()).collect();
    let mut unique = sources.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), sources.len(), "a row is pooled twice");
    assert_eq!(plan.pooled_row.len(), batch.ends.len());
    for (&row, &end) in plan.pooled_row.iter().zip(&batch.ends) {
        assert_eq!(sources[row] as usize, batch.segments[end].rows.end - 1);
    }
    let positions = positions(batch);
    for block in &plan.pooled {
        assert!((1..=most).contains(&block.sources.len()));
        check_tiles(batch, block);
        for (&source, &position) in block.sources.iter().zip(&block.positions) {
            assert_eq!(position, positions[source as usize]);
        }
    }
}

fn check_runs(batch: &PackedBatch) {
    let all = runs(batch);
    assert_eq!(all.len(), batch.segments.len());
    let positions = positions(batch);
    for (runs, segment) in all.iter().zip(&batch.segments) {
        let mut next = 0;
        for run in runs {
            assert_eq!(run.position, next);
            next += run.len;
            let rows = &positions[run.row..run.row + run.len];
            assert_eq!(rows, (run.position as u32..next as u32).collect::<Vec<_>>());
        }
        assert_eq!(next, segment.position + segment.rows.len());
        assert_eq!(runs.last().map(|run| run.row..run.row + run.len), Some(segment.rows.clone()));
    }
    for (number, segment) in batch.segments.iter().enumerate() {
        let (own, before) = all[number].split_last().unwrap();
        assert_eq!(own.position, segment.position);
        assert_eq!(before, segment.parent.map_or(&[][..], |parent| &all[parent]));
    }
}

proptest! {
    #[test]
    fn a_plan_covers_its_batch(batch in batches(), most in 1usize..200) {
        let plan = StepPlan::new(&batch, most, TILE_ROWS);
        check_blocks(&batch, &plan, most);
        check_pooled(&batch, &plan, most);
        check_runs(&batch);
    }

    #[test]
    fn parts_are_few_and_even(start in 0usize..50, len in 0usize..500, most in 0usize..70) {
        let parts: Vec<_> = even_blocks(start..start + len, most).collect();
        prop_assert_eq!(parts.len(), len.div_ceil(most.max(1)));
        let lengths = || parts.iter().map(|part| part.len());
        if let (Some(shortest), Some(longest)) = (lengths().min(), lengths().max()) {
            prop_assert!(shortest >= 1 && longest <= most.max(1) && longest - shortest <= 1);
        }
        let rows: Vec<_> = parts.into_iter().flatten().collect();
        prop_assert_eq!(rows, (start..start + len).collect::<Vec<_>>());
    }
}

#[test]
fn a_small_group_is_planned_by_hand() {
    let mut packer = Packer::default();
    let prompt = || 0..40u32;
    packer.push(prompt().chain([100, 101]).collect());
    packer.push(prompt().chain([200]).collect());
    packer.push(prompt().chain([100, 101]).collect());
    let batch = packer.pack();
    let plan = StepPlan::new(&batch, 64, TILE_ROWS);
    let tile = |rows, position, segment| Tile { rows, position, segment };
    // the later response is taken from the stack first
    assert_eq!(batch.ends, [2, 1, 2]);
    assert_eq!(plan.blocks.len(), 1);
    assert_eq!(
        plan.blocks[0].tiles,
        [tile(0..32, 0, 0), tile(32..40, 32, 0), tile(40..41, 40, 1), tile(41..43, 40, 2)]
    );
    let run = |position, row, len| Run { position, row, len };
    assert_eq!(runs(&batch)[2], [run(0, 0, 40), run(40, 41, 2)]);
    assert_eq!(plan.pooled_row, [1, 0, 1]);
    assert_eq!(plan.pooled[0].sources, [40, 42]);
    assert_eq!(plan.pooled[0].positions, [40, 41]);
    assert_eq!(plan.positions, 42);
}

#[test]
fn an_empty_batch_has_an_empty_plan() {
    let plan = StepPlan::new(&Packer::default().pack(), 64, TILE_ROWS);
    let (blocks, pooled) = (Vec::new(), Vec::new());
    assert_eq!(plan, StepPlan { blocks, pooled, pooled_row: Vec::new(), positions: 0 });
}
