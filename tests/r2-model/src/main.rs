//! Serves an empty model on the loopback interface until it is killed, to try a mount by hand.

use r2_model::R2Model;

const USAGE: &str = "usage: r2-model [--port PORT] [--bucket NAME]";

fn main() {
    let mut builder = R2Model::builder();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        builder = match (name.as_str(), arguments.next()) {
            ("--port", Some(port)) => builder.port(port.parse().unwrap_or_else(|_| usage())),
            ("--bucket", Some(bucket)) => builder.bucket(&bucket),
            _ => usage(),
        };
    }
    let model = builder.start();
    println!("endpoint   {}", model.endpoint());
    println!("bucket     {}", model.bucket());
    println!("access key {}", model.access_key());
    println!("secret key {}", model.secret_key());
    loop {
        std::thread::park();
    }
}

fn usage() -> ! {
    eprintln!("{USAGE}");
    std::process::exit(2);
}
