//! Health, and what the API says of itself.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_healthy_while_there_is_a_launcher() {
    let mut stage = Stage::new("health");
    let channel = stage.channel(ALICE).await;
    let mut health = HealthClient::new(channel);
    for service in ["", "agentd.v1.Sessions"] {
        let request = HealthCheckRequest { service: service.into() };
        let status = health.check(request).await.unwrap().into_inner().status;
        assert_eq!(status, ServingStatus::Serving as i32, "{service}");
    }
    let (nowhere, _) = Packets::pair().unwrap();
    stage.sender = nowhere.try_clone().unwrap();
    stage.launcher = Link::new(nowhere).unwrap();
    let mut status = ServingStatus::Serving as i32;
    for _ in 0..100 {
        let request = HealthCheckRequest { service: "agentd.v1.Sessions".into() };
        status = health.check(request).await.unwrap().into_inner().status;
        if status == ServingStatus::NotServing as i32 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(status, ServingStatus::NotServing as i32);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_says_which_services_it_has() {
    let mut stage = Stage::new("reflection");
    let mut client = ServerReflectionClient::new(stage.channel(ALICE).await);
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let asked = tokio_stream::iter([ServerReflectionRequest { host: String::new(), message_request }]);
    let mut answers = client.server_reflection_info(asked).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(listed) = answer else { panic!() };
    assert!(listed.service.iter().any(|service| service.name == "agentd.v1.Sessions"));
}
