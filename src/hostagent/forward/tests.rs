//! Forwards against a guest in this process: a real ssh session, a pretend agent, real sockets. What listens in the guest
//! has 127.0.0.2, the host 127.0.0.1.

mod agent;
mod hostile;
mod own;
mod ssh;
mod tcp;
mod udp;
mod world;

#[test]
fn sockets_are_not_forwarded_where_the_driver_says_so() {
    use super::{Config, Features, PortForward, asked};

    let socket = PortForward { guest_socket: Some("/run/a.sock".into()), ..PortForward::default() };
    let port = PortForward { guest_port: Some(80), ..PortForward::default() };
    let config = Config { port_forwards: Some(vec![socket, port]), ..Config::default() };
    let ports = |features: &Features| asked(&config, features).iter().map(|it| it.guest_port).collect::<Vec<_>>();
    assert_eq!(ports(&Features::default()), [None, Some(80)]);
    assert_eq!(ports(&Features { skip_socket_forwarding: true, ..Features::default() }), [Some(80)]);
}
