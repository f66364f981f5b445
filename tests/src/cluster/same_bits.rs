//! Golden scores through gateways are the bits that a replica in this process computes, however the cluster is made.

use std::sync::Arc;

use super::load::Items;
use super::processes::{Cluster, Shape, dial};
use super::turn;

/// What a gateway says of all items, as bits.
async fn scores(cluster: &Cluster, gateway: usize, items: &Items) -> Vec<u32> {
    let (request, _) = items.request();
    let response = dial(cluster.endpoint(gateway)).await.unwrap().score(request).await.unwrap().into_inner();
    let results = response.items.iter().flat_map(|item| &item.results);
    results.map(|result| result.score.unwrap_or_else(|| panic!("{result:?}")).to_bits()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn golden_scores_are_the_same_bits_through_any_cluster() {
    let _turn = turn().await;
    for (gateways, replicas, tensor_parallel, ranks) in
        [(1, 1, 1, vec!["0..1"]), (1, 1, 2, vec!["0..2"]), (2, 2, 2, vec!["0..1", "1..2"])]
    {
        let shape = Shape { gateways, replicas, tensor_parallel, ranks };
        let items = Arc::new(Items::new(tensor_parallel));
        let expected: Vec<u32> = items.request().1.iter().map(|score| score.to_bits()).collect();
        let cluster = Cluster::start(1, &shape).await;
        for gateway in 0..gateways {
            assert_eq!(scores(&cluster, gateway, &items).await, expected, "{shape:?}, alone");
        }
        let all = (0..8).map(|client| scores(&cluster, client % gateways, &items));
        let all = futures_util::future::join_all(all).await;
        assert!(all.iter().all(|scores| *scores == expected), "{shape:?}, eight at a time");
    }
}
