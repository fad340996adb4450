//! Where a ticket says that the node is.
//!
//! A machine does not know the address under which others see it: behind a NAT or a forwarded port
//! only its owner does, who then says so (`advertise`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The addresses to put into a ticket, `HOST:PORT`, the likeliest first.
///
/// `advertise` is `HOST` or `HOST:PORT`, each with the port of `listening` unless it names one. Where it
/// is empty: the address that is listened on; for a node that listens on all of them those from
/// which the machine would reach the rest of the world, and its own loopback last.
pub fn advertised(listening: SocketAddr, advertise: &[String]) -> Vec<String> {
    let port = listening.port();
    if !advertise.is_empty() {
        return advertise.iter().map(|host| with_port(host, port)).collect();
    }
    if !listening.ip().is_unspecified() {
        return vec![listening.to_string()];
    }
    let mut found: Vec<IpAddr> = Vec::new();
    found.extend(outward(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()));
    if listening.is_ipv6() {
        let documentation = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        found.extend(outward(Ipv6Addr::UNSPECIFIED.into(), documentation.into()));
    }
    found.retain(|address| !address.is_loopback());
    found.push(Ipv4Addr::LOCALHOST.into());
    found.into_iter().map(|address| SocketAddr::new(address, port).to_string()).collect()
}

/// Our own address on the way to `to`. Nothing is sent; the address is one of those that RFC 5737
/// and RFC 3849 keep for documentation, so that the way is the default one.
fn outward(from: IpAddr, to: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((from, 0)).ok()?;
    socket.connect((to, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn with_port(host: &str, port: u16) -> String {
    if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return SocketAddr::new(address, port).to_string();
    }
    match host.rsplit_once(':') {
        Some(_) => host.to_owned(),
        None => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    #[test]
    fn what_is_said_gets_the_port_it_lacks() {
        let said = ["box.example", "box.example:9", "10.0.0.1", "::1", "[::1]", "[::1]:9"];
        let said = said.map(str::to_owned);
        let expected =
            ["box.example:5", "box.example:9", "10.0.0.1:5", "[::1]:5", "[::1]:5", "[::1]:9"];
        assert_eq!(advertised(listening("[::]:5"), &said), expected);
    }

    #[test]
    fn one_address_is_itself_and_all_of_them_end_with_loopback() {
        assert_eq!(advertised(listening("127.0.0.1:5"), &[]), ["127.0.0.1:5"]);
        let all = advertised(listening("[::]:5"), &[]);
        assert_eq!(all.last().map(String::as_str), Some("127.0.0.1:5"));
        let real = |address: &String| address.parse::<SocketAddr>().unwrap();
        assert!(all.iter().all(|address| !real(address).ip().is_unspecified()));
    }
}
