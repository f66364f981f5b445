//! The models that a gateway serves, and whether what is wanted of them can be had.

use proto::v1;
use proto::v1::reward_service_client::RewardServiceClient;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Channel;

use super::endpoints::PATIENCE;

/// The models that a gateway serves.
pub(super) async fn served(channel: Channel) -> Result<Vec<v1::Model>, Status> {
    let mut client = RewardServiceClient::new(channel);
    let listed = timeout(PATIENCE, client.list_models(v1::ListModelsRequest {})).await;
    let listed = listed.map_err(|_| Status::unavailable("it does not answer"))??;
    Ok(listed.into_inner().models)
}

/// Refuses, once, what a gateway that serves these models would refuse of each item.
pub(super) fn check(served: &[v1::Model], options: &v1::Options) -> Result<(), Status> {
    let names = || served.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
    let model = match (options.model.as_str(), served) {
        ("", [only]) => only,
        ("", []) => return Err(Status::not_found("no model is served")),
        ("", _) => return Err(Status::invalid_argument(format!("--model names one of {}", names()))),
        (wanted, _) => served.iter().find(|model| model.name == wanted).ok_or_else(|| {
            Status::not_found(format!("--model {wanted} is not served; --model names one of {}", names()))
        })?,
    };
    let (wanted, limit) = (options.max_length, model.max_length);
    if wanted > limit {
        let problem = format!("--max-length {wanted} is more than the model's limit of {limit} tokens");
        return Err(Status::invalid_argument(problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
