//! Serves a model on the loopback interface until it is killed, to try a mount by hand. It is empty, or holds
//! so many small objects in `segments/`.

use r2_model::R2Model;

const USAGE: &str = "usage: r2-model [--port PORT] [--bucket NAME] [--segments COUNT]";

fn main() {
    let mut builder = R2Model::builder();
    let mut segments = 0_u64;
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        builder = match (name.as_str(), arguments.next()) {
            ("--port", Some(port)) => builder.port(port.parse().unwrap_or_else(|_| usage())),
            ("--bucket", Some(bucket)) => builder.bucket(&bucket),
            ("--segments", Some(count)) => {
                segments = count.parse().unwrap_or_else(|_| usage());
                builder
            }
            _ => usage(),
        };
    }
    let model = builder.start();
    for number in 0..segments {
        model.put(
            &format!("segments/take-{number:08}-7d3c4b5a9e21.wav"),
            "bytes",
        );
    }
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
