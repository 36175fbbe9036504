//! The HTTP layer in front of `s3s`: names the operation, keeps the log.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use s3s::Body;
use s3s::service::S3Service;

use crate::api::Steer;
use crate::log::{RequestRecord, kept_headers};
use crate::operation::Target;
use crate::service::{self, Model, Ticket};

/// The body of an answer on its way out.
pub(crate) type OutBody = UnsyncBoxBody<Bytes, io::Error>;

/// Takes every request first.
pub(crate) struct Front {
    model: Arc<Model>,
    service: S3Service,
}

impl Front {
    pub(crate) fn new(model: Arc<Model>) -> Self {
        Self {
            service: service::service(Arc::clone(&model)),
            model,
        }
    }

    /// Answers a request; an error cuts the connection.
    pub(crate) async fn handle(
        &self,
        request: hyper::Request<Incoming>,
    ) -> io::Result<hyper::Response<OutBody>> {
        let target = Target::of(
            request.method(),
            request.uri().path(),
            request.uri().query(),
            request.headers().contains_key("x-amz-copy-source"),
        );
        let operation = target.operation;
        let number = self.enter(&target, &request);
        let ticket = Ticket {
            number,
            target,
            steer: Steer::default(),
        };
        let response = service::call(&self.service, request.map(Body::from), ticket).await;
        self.model
            .log
            .lock()
            .answered(number, operation, response.status().as_u16());
        Ok(response.map(|body| self.counted(number, body)))
    }

    fn enter(&self, target: &Target, request: &hyper::Request<Incoming>) -> u64 {
        let header = |name: &str| request.headers().get(name).and_then(|it| it.to_str().ok());
        let signature = |name: &str| name.to_ascii_lowercase().starts_with("x-amz-");
        self.model.log.lock().begin(RequestRecord {
            at: SystemTime::now(),
            operation: target.operation,
            key: target.key.clone(),
            query: target
                .query
                .iter()
                .filter(|(name, _)| !signature(name))
                .cloned()
                .collect(),
            range: header("range").map(str::to_owned),
            status: None,
            bytes_in: 0,
            bytes_out: 0,
            headers: kept_headers(request.headers()),
            faults: Vec::new(),
        })
    }

    /// Enters in the log what of the body the connection takes.
    fn counted(&self, number: u64, body: Body) -> OutBody {
        let model = Arc::clone(&self.model);
        let body = body.map_err(io::Error::other).map_frame(move |frame| {
            let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
            model
                .log
                .lock()
                .update(number, |record| record.bytes_out += bytes);
            frame
        });
        OutBody::new(body)
    }
}
