//! Who may come in: the unix socket, TCP, tokens and certificates; and what watches from outside.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use provender_tests::child::string;
use provender_tests::daemon::Daemon;
use provender_tests::provender::Provender;
use rustix::process::Signal;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::world::{World, folder};

const TOKEN: &str = "a-token-of-32-characters-or-more";

#[test]
fn tcp_without_protection_is_refused() {
    let folder = folder();
    let refused = |flags: &[&str]| Daemon::refused(&folder.path().join("d"), flags).code(1);
    refused(&["--listen", "127.0.0.1:0"]).says(&["TLS", "--insecure"]);
    refused(&["--listen", "0.0.0.0:0"]).says(&["TLS"]);
    refused(&["--listen", "0.0.0.0:0", "--insecure"]).says(&["loopback"]);
    refused(&["--listen", "[::]:0", "--insecure"]).says(&["loopback"]);
}

#[test]
fn insecure_on_loopback_works_and_warns() {
    let world = World::with("", &["--listen", "127.0.0.1:0", "--insecure"]);
    let address = string(&world.daemon.logged("listening on TCP")["fields"]["address"]);
    let warned = |line: &serde_json::Value| line["level"] == "WARN" && line.to_string().contains("without TLS");
    assert!(world.daemon.logs().iter().any(warned));
    let remote = format!("http://{address}");
    world.write("file", "over TCP");
    world.cli(&["--remote", &remote, "put", "file", "--name", "n"]).ok();
    assert_eq!(world.cli(&["--remote", &remote, "cat", "n", "file"]).ok().out(), "over TCP");
}

fn openssl(folder: &Path, args: &[&str]) {
    let made = Command::new("openssl").args(args).current_dir(folder).output().expect("openssl is installed");
    assert!(made.status.success(), "{args:?}: {}", String::from_utf8_lossy(&made.stderr));
}

/// An authority, `ca.pem`, and a certificate of it for `name`, with its key.
fn certificates(folder: &Path, name: &str) {
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    if !folder.join("ca.pem").exists() {
        let ca = ["req", "-x509", "-days", "2", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"];
        openssl(folder, &[&ca[..], &curve].concat());
    }
    let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
    let subject = format!("/CN={name}");
    openssl(folder, &[&["req", "-subj", &subject, "-keyout", &key, "-out", &request][..], &curve].concat());
    std::fs::write(folder.join("ext"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
    let sign =
        ["x509", "-req", "-days", "2", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "ext"];
    openssl(folder, &[&sign[..], &["-in", &request, "-out", &certificate]].concat());
}

/// A client's configuration for a daemon, at a home of its own.
fn configured(folder: &Path, home: &str, config: &str) -> Provender {
    let home = folder.join(home);
    std::fs::create_dir_all(home.join("config/provender")).unwrap();
    std::fs::write(home.join("config/provender/config.toml"), config).unwrap();
    Provender::new(&home, folder, "").without("PROVENDER_REMOTE")
}

#[test]
fn tls_and_tokens_admit_who_has_them() {
    let place = folder();
    let at = |name: &str| place.path().join(name).display().to_string();
    certificates(place.path(), "server");
    std::fs::write(at("tokens"), format!("# who\n\n{TOKEN}\n")).unwrap();
    openssl(place.path(), &["version"]);
    std::fs::set_permissions(at("tokens"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let config = format!(
        "listen = \"127.0.0.1:0\"\ntokens_file = \"{}\"\n[tls]\ncert = \"{}\"\nkey = \"{}\"\n",
        at("tokens"),
        at("server.pem"),
        at("server.key")
    );
    let world = World::with(&config, &[]);
    let address = string(&world.daemon.logged("listening on TCP")["fields"]["address"]);
    let (remote, ca) = (format!("remote = \"https://{address}\"\n"), format!("ca = \"{}\"\n", at("ca.pem")));
    let token = |name: &str, token: &str| {
        std::fs::write(at(name), format!("{token}\n")).unwrap();
        format!("token_file = \"{}\"\n", at(name))
    };
    let client = |home: &str, parts: &[&str]| configured(place.path(), home, &parts.concat());

    let good = client("good", &[&remote, &ca, &token("token", TOKEN)]);
    assert_eq!(good.run(["run", "--name", "n", "--", "echo", "in"]).ok().out(), "in\n");
    good.run(["ls"]).ok();
    client("none", &[&remote, &ca]).run(["ls"]).code(125).says(&["refuses this client", "token_file"]);
    let wrong = client("wrong", &[&remote, &ca, &token("other", "another-token-of-32-characters!!")]);
    wrong.run(["ls"]).code(125).says(&["refuses this client", "token"]);
    client("no-ca", &[&remote, &token("token", TOKEN)]).run(["ls"]).code(125).says(&[&address]);
    let plain = format!("remote = \"http://{address}\"\n");
    client("plain", &[&plain, &token("token", TOKEN)]).run(["ls"]).code(125).says(&[&address]);
    assert!(!world.daemon.logs().iter().any(|line| line.to_string().contains(TOKEN)), "a token is never logged");
    // The unix socket needs no token.
    world.cli(&["ls"]).ok();

    // A token file that others can read is refused, and so is one that holds none.
    std::fs::set_permissions(at("tokens"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let again = |words: &[&str]| {
        let config = world.root().join("provenderd.toml");
        _ = Daemon::refused(&place.path().join("d"), &["--config", config.to_str().unwrap()]).code(1).says(words);
    };
    again(&["tokens", "chmod 600"]);
    std::fs::set_permissions(at("tokens"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(at("tokens"), "short\n").unwrap();
    again(&["16 characters"]);
    std::fs::remove_file(at("tokens")).unwrap();
    again(&["tokens", "cannot be read"]);
}

#[test]
fn client_certificates_admit_who_has_one() {
    let place = folder();
    let at = |name: &str| place.path().join(name).display().to_string();
    certificates(place.path(), "server");
    certificates(place.path(), "client");
    let config = format!(
        "listen = \"127.0.0.1:0\"\n[tls]\ncert = \"{}\"\nkey = \"{}\"\nclient_ca = \"{}\"\n",
        at("server.pem"),
        at("server.key"),
        at("ca.pem")
    );
    let world = World::with(&config, &[]);
    let address = string(&world.daemon.logged("listening on TCP")["fields"]["address"]);
    let remote =
        format!("remote = \"https://localhost:{}\"\nca = \"{}\"\n", address.rsplit(':').next().unwrap(), at("ca.pem"));
    let own = format!("cert = \"{}\"\nkey = \"{}\"\n", at("client.pem"), at("client.key"));
    configured(place.path(), "good", &format!("{remote}{own}")).run(["ls"]).ok();
    configured(place.path(), "none", &remote).run(["ls"]).code(125).says(&["localhost"]);
}

/// `provender` as another user, who can reach the programs and the working folder.
pub(crate) fn as_other(world: &World, groups: &str) -> Provender {
    use std::os::unix::fs::PermissionsExt;
    assert!(rustix::process::geteuid().is_root(), "this test runs a client as another user: run it as root");
    let bin = world.root().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::copy(provender_tests::child::program("provender"), bin.join("provender")).unwrap();
    for path in [world.root(), &bin] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = format!("exec {}/provender \"$@\"", bin.display());
    world.provender.behind(&["setpriv", "--reuid=65534", "--regid=65534", groups, "sh", "-c", &script])
}

#[test]
fn another_user_is_kept_out() {
    let world = World::new();
    let other = as_other(&world, "--clear-groups");
    other.run(["ls"]).code(125).says(&["cannot reach", "Permission denied"]);
    // Neither would an open door help: the peer is looked at.
    for (path, mode) in [(world.data(), 0o755), (world.daemon.socket(), 0o777)] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    other.run(["ls"]).code(125).says(&["provender.sock"]);
    let refused =
        |line: &serde_json::Value| line["level"] == "WARN" && line["fields"]["uid"].to_string().contains("65534");
    assert!(world.daemon.logs().iter().any(refused));
    world.cli(&["ls"]).ok();
}

#[test]
fn a_socket_group_admits_its_members() {
    let world = World::with("socket_group = \"daemon\"\n", &[]);
    as_other(&world, "--clear-groups").run(["ls"]).code(125).says(&["Permission denied"]);
    let group = Command::new("getent").args(["group", "daemon"]).output().unwrap();
    let id = String::from_utf8(group.stdout).unwrap().split(':').nth(2).unwrap().to_owned();
    as_other(&world, &format!("--groups={id}")).run(["ls"]).ok();
    // But not to upkeep: a backup holds everything.
    let dir = world.root().join("backups");
    let asks = ["admin", "backup", dir.to_str().unwrap()];
    as_other(&world, &format!("--groups={id}")).run(asks).code(125).says(&["own user"]);
    assert!(!dir.exists());
    world.cli(&asks).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer() {
    let world = World::new();
    let channel = Endpoint::from_shared(world.daemon.remote()).unwrap().connect().await.unwrap();
    for service in ["", "provender.v1.Tasks", "provender.v1.Blobs", "provender.v1.Catalog"] {
        let request = HealthCheckRequest { service: service.into() };
        let answer = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner();
        assert_eq!(answer.status().as_str_name(), "SERVING", "{service:?}");
    }
    let ask = |message_request| ServerReflectionRequest { host: String::new(), message_request: Some(message_request) };
    let symbol = MessageRequest::FileContainingSymbol("provender.v1.BeginRequest".into());
    let asked = futures::stream::iter([ask(MessageRequest::ListServices(String::new())), ask(symbol)]);
    let mut answers = ServerReflectionClient::new(channel).server_reflection_info(asked).await.unwrap().into_inner();
    let mut next = async || answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = next().await else { panic!("no list") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["provender.v1.Tasks", "provender.v1.Blobs", "provender.v1.Catalog", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    let MessageResponse::FileDescriptorResponse(files) = next().await else { panic!("no file") };
    assert!(!files.file_descriptor_proto.is_empty());
}

/// The whole answer to a GET.
pub(crate) fn http(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Where a daemon with `--metrics-listen` listens.
pub(crate) fn metrics_address(world: &World) -> String {
    let line = world.daemon.logged("metrics and health over HTTP");
    let text = string(&line["fields"]["address"]);
    text.trim_start_matches("Some(").trim_end_matches(')').to_owned()
}

#[test]
fn metrics_and_health_answer_over_http() {
    let mut world = World::with("", &["--metrics-listen", "127.0.0.1:0"]);
    let address = metrics_address(&world);
    world.run(&["--name", "n", "--out", "out"], "echo made >out").ok();
    world.run(&["--name", "n", "--out", "out"], "echo made >out").ok();
    let metrics = http(&address, "/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    for line in
        ["provender_begins_total{outcome=\"lease\"} 1", "provender_begins_total{outcome=\"hit\"} 1", "SUCCEEDED"]
    {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
    for (path, code) in [("/healthz", 200), ("/readyz", 200), ("/nothing", 404)] {
        assert!(http(&address, path).starts_with(&format!("HTTP/1.1 {code}")), "{path}");
    }
    world.daemon.signal(Signal::TERM);
    world.daemon.wait();
    assert!(TcpStream::connect(&address).is_err());
}
