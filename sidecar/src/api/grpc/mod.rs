//! The gRPC services of package `wherry.v1`, with health (grpc.health.v1) and reflection (v1).

mod groups;
mod publisher;
mod requests;
mod subscriber;
mod topics;
mod transactions;

use tonic::service::Routes;
use tonic_health::server::HealthReporter;
use wherry_proto::FILE_DESCRIPTOR_SET;
use wherry_proto::v1::group_service_server::GroupServiceServer;
use wherry_proto::v1::publisher_service_server::PublisherServiceServer;
use wherry_proto::v1::request_service_server::RequestServiceServer;
use wherry_proto::v1::subscriber_service_server::SubscriberServiceServer;
use wherry_proto::v1::topic_service_server::TopicServiceServer;
use wherry_proto::v1::transaction_service_server::TransactionServiceServer;

use crate::backend::Backend;
use crate::limits;
use crate::shared::Shared;

/// The call that carries a whole batch.
const PUBLISH_BATCH: &str = "/wherry.v1.PublisherService/PublishBatch";

/// All services, and what reports their health.
pub(crate) async fn routes<B: Backend>(
    shared: &Shared<B>,
) -> Result<(axum::Router, HealthReporter), tonic_reflection::server::Error> {
    let frame = shared.limits.message_bytes + limits::FRAME_OVERHEAD_BYTES;
    let publisher = PublisherServiceServer::new(publisher::Publisher { shared: shared.clone() })
        .max_decoding_message_size(frame)
        .max_encoding_message_size(usize::MAX);
    let subscriber = SubscriberServiceServer::new(subscriber::Subscriber { shared: shared.clone() })
        .max_decoding_message_size(frame)
        .max_encoding_message_size(usize::MAX);
    let topics = TopicServiceServer::new(topics::Topics { shared: shared.clone() });
    let groups = GroupServiceServer::new(groups::Groups { shared: shared.clone() });
    let requests = RequestServiceServer::new(requests::Requests { shared: shared.clone() })
        .max_decoding_message_size(frame)
        .max_encoding_message_size(usize::MAX);
    // One call may carry a whole transaction, or a whole batch.
    let whole = shared.limits.transaction_bytes.max(shared.limits.message_bytes) + limits::FRAME_OVERHEAD_BYTES;
    let transactions = TransactionServiceServer::new(transactions::Transactions { shared: shared.clone() })
        .max_decoding_message_size(whole)
        .max_encoding_message_size(usize::MAX);
    let batches = PublisherServiceServer::new(publisher::Publisher { shared: shared.clone() })
        .max_decoding_message_size(whole)
        .max_encoding_message_size(usize::MAX);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<PublisherServiceServer<publisher::Publisher<B>>>().await;
    health.set_serving::<SubscriberServiceServer<subscriber::Subscriber<B>>>().await;
    health.set_serving::<TopicServiceServer<topics::Topics<B>>>().await;
    health.set_serving::<GroupServiceServer<groups::Groups<B>>>().await;
    health.set_serving::<RequestServiceServer<requests::Requests<B>>>().await;
    health.set_serving::<TransactionServiceServer<transactions::Transactions<B>>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let routes = Routes::new(publisher)
        .add_service(subscriber)
        .add_service(topics)
        .add_service(groups)
        .add_service(requests)
        .add_service(transactions)
        .add_service(health_service)
        .add_service(reflection);
    // The same service, with room for larger frames than its other calls have.
    let router = routes.prepare().into_axum_router().route_service(PUBLISH_BATCH, batches);
    Ok((router, health))
}
