//! The HTTP layer in front of `s3s`: names the operation, keeps the log, lets faults strike.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use s3s::Body;
use s3s::service::S3Service;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::fault::{Ending, Reply};
use crate::log::{RequestRecord, kept_headers};
use crate::operation::Target;
use crate::other_client::OtherClient;
use crate::plan::Plan;
use crate::service::{self, Model, Ticket};

/// The body of an answer on its way out.
pub(crate) type OutBody = UnsyncBoxBody<Bytes, io::Error>;

/// Takes every request first.
#[derive(Clone)]
pub(crate) struct Front {
    model: Arc<Model>,
    service: S3Service,
    /// Whom hooks act as.
    other: OtherClient,
}

impl Front {
    pub(crate) fn new(other: OtherClient) -> Self {
        let model = Arc::clone(&other.model);
        Self {
            service: service::service(Arc::clone(&model)),
            model,
            other,
        }
    }

    pub(crate) fn count_failed_connection(&self) {
        self.model
            .connections_failed
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Answers a request; an error cuts the connection, which `reset` makes a reset.
    pub(crate) async fn handle(
        &self,
        request: Request<Incoming>,
        reset: &AtomicBool,
    ) -> io::Result<Response<OutBody>> {
        let target = Target::of(
            request.method(),
            request.uri().path(),
            request.uri().query(),
            request.headers().contains_key("x-amz-copy-source"),
        );
        let plan = self.model.faults.lock().plan(&target);
        let number = self.enter(&target, &request, plan.names.clone());
        let ticket = Ticket {
            number,
            target,
            steer: plan.steer.clone(),
        };
        self.prepare(&plan).await?;
        if let Some(bytes) = plan.cut_upload {
            take_body(request.into_body(), bytes).await;
            return Err(cut());
        }
        if let Some(ending) = plan.instead {
            // A client that is still sending would not see an answer.
            if matches!(ending, Ending::Reply(_)) {
                take_body(request.into_body(), u64::MAX).await;
            }
            return self.end(ending, &ticket, reset).await;
        }
        if let Some(delay) = plan.late_commit {
            return self.commit_later(request, ticket, delay).await;
        }
        let (request, rest) = drained(request);
        let response = self.execute(request, ticket.clone()).await;
        // Refused before its body was read: a client that is still sending would meet a reset.
        if let Ok(rest) = rest.await {
            take_body(rest, u64::MAX).await;
        }
        if let Some(ending) = plan.lost {
            return self.end(ending, &ticket, reset).await;
        }
        sleep(plan.first_byte).await;
        self.answered(&ticket, response.status());
        let shape = plan.shape;
        Ok(response.map(|body| {
            let body = OutBody::new(body.map_err(io::Error::other));
            self.counted(number, shape.apply(body))
        }))
    }

    async fn prepare(&self, plan: &Plan) -> io::Result<()> {
        sleep(plan.latency).await;
        for hook in plan.hooks.iter().cloned() {
            let other = self.other.clone();
            // A hook may write through the file system under test and so come back here.
            let run = tokio::task::spawn_blocking(move || (hook.0)(&other));
            run.await.map_err(|_| io::Error::other("a hook panicked"))?;
        }
        Ok(())
    }

    async fn execute(&self, request: Request<Body>, ticket: Ticket) -> Response<Body> {
        let (number, operation) = (ticket.number, ticket.target.operation);
        let response = service::call(&self.service, request, ticket).await;
        self.model
            .log
            .lock()
            .carried_out(number, operation, response.status().as_u16());
        response
    }

    /// Takes the whole request, leaves the client alone, and carries it out afterwards.
    async fn commit_later(
        &self,
        request: Request<Incoming>,
        ticket: Ticket,
        delay: Duration,
    ) -> io::Result<Response<OutBody>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let request = Request::from_parts(parts, Body::from(body));
        let front = self.clone();
        tokio::spawn(async move {
            sleep(delay).await;
            front.execute(request, ticket).await;
        });
        Err(cut())
    }

    async fn end(
        &self,
        ending: Ending,
        ticket: &Ticket,
        reset: &AtomicBool,
    ) -> io::Result<Response<OutBody>> {
        match ending {
            Ending::Cut => {}
            Ending::Reset => reset.store(true, Ordering::Relaxed),
            Ending::Silence(time) => sleep(time).await,
            Ending::Reply(reply) => {
                let response = made_up(reply);
                self.answered(ticket, response.status());
                return Ok(response.map(|body| self.counted(ticket.number, body)));
            }
        }
        Err(cut())
    }

    fn enter(
        &self,
        target: &Target,
        request: &Request<Incoming>,
        faults: Vec<&'static str>,
    ) -> u64 {
        let header = |name: &str| request.headers().get(name).and_then(|it| it.to_str().ok());
        let signature = |name: &str| name.to_ascii_lowercase().starts_with("x-amz-");
        self.model.log.lock().begin(RequestRecord {
            at: SystemTime::now(),
            client: header("authorization").and_then(access_key),
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
            outcome: None,
            bytes_in: 0,
            bytes_out: 0,
            headers: kept_headers(request.headers()),
            faults,
        })
    }

    fn answered(&self, ticket: &Ticket, status: StatusCode) {
        self.model
            .log
            .lock()
            .answered(ticket.number, status.as_u16());
    }

    /// Enters in the log what of the body the connection takes.
    fn counted(&self, number: u64, body: OutBody) -> OutBody {
        let model = Arc::clone(&self.model);
        OutBody::new(body.map_frame(move |frame| {
            let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
            model
                .log
                .lock()
                .update(number, |record| record.bytes_out += bytes);
            frame
        }))
    }
}

/// What hyper takes for a reason to drop the connection.
fn cut() -> io::Error {
    io::Error::other("a fault cuts the connection")
}

/// Returns the request, and what is left of its body once nobody reads that any more.
fn drained(request: Request<Incoming>) -> (Request<Body>, oneshot::Receiver<Incoming>) {
    let (give, rest) = oneshot::channel();
    let request = request.map(|body| {
        Body::http_body_unsync(Drained {
            body: Some(body),
            give: Some(give),
        })
    });
    (request, rest)
}

/// A body that is handed on, as far as it has not been read, when it is dropped.
struct Drained {
    body: Option<Incoming>,
    give: Option<oneshot::Sender<Incoming>>,
}

impl Drop for Drained {
    fn drop(&mut self) {
        if let (Some(body), Some(give)) = (self.body.take(), self.give.take()) {
            // Nobody waits for the rest once the connection is gone.
            let _ = give.send(body);
        }
    }
}

impl hyper::body::Body for Drained {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map(|body| body.size_hint())
            .unwrap_or_default()
    }
}

/// Reads up to so many bytes of a body and throws them away.
async fn take_body(mut body: Incoming, limit: u64) {
    let mut taken = 0;
    while taken < limit {
        match body.frame().await {
            Some(Ok(frame)) => taken += frame.data_ref().map_or(0, |data| data.len() as u64),
            _ => return,
        }
    }
}

/// Returns the access key in an `Authorization` header.
fn access_key(authorization: &str) -> Option<String> {
    let (_, credential) = authorization.split_once("Credential=")?;
    let (key, _) = credential.split_once('/')?;
    Some(key.to_owned())
}

fn made_up(reply: Reply) -> Response<OutBody> {
    let body = Full::new(reply.body).map_err(|never| match never {});
    let mut response = Response::new(OutBody::new(body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::BAD_GATEWAY);
    for (name, value) in reply.headers {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}
