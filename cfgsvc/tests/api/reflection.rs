//! What a client that knows nothing is told of the API.

use tonic::transport::Endpoint;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::harness::{Server, soon};

async fn asked(server: &Server, question: MessageRequest) -> MessageResponse {
    let endpoint = Endpoint::from_shared(server.url()).expect("an address");
    let mut client = ServerReflectionClient::new(endpoint.connect_lazy());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    };
    let answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .expect("an answer");
    let answer = soon("a message", answers.into_inner().message()).await;
    let answer = answer.expect("no error").expect("no end");
    answer.message_response.expect("an answer")
}

#[tokio::test]
async fn services_are_listed_and_their_files_have_comments() {
    let server = Server::start().await;
    let list = asked(&server, MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(list) = list else {
        panic!("another answer: {list:?}");
    };
    let names: Vec<_> = list.service.into_iter().map(|found| found.name).collect();
    for service in ["cfgsvc.v1.Roles", "cfgsvc.v1.Admin", "etcdserverpb.KV"] {
        assert!(names.iter().any(|name| name == service), "{names:?}");
    }
    let symbol = MessageRequest::FileContainingSymbol("cfgsvc.v1.Roles.Attend".to_owned());
    let file = asked(&server, symbol).await;
    let MessageResponse::FileDescriptorResponse(file) = file else {
        panic!("another answer: {file:?}");
    };
    let bytes = file.file_descriptor_proto.concat();
    let comment = b"A host, or a client of a lock, is there.";
    let found = bytes.windows(comment.len()).any(|part| part == comment);
    assert!(found, "the comment of Attend");
}
