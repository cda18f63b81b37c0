use super::*;
use serde_json::json;

fn parse(value: &Value) -> Inbound {
    Inbound::parse(value.to_string().as_bytes()).unwrap()
}

#[test]
fn keys_are_made_as_node_makes_them() {
    let query = |v: Value| {
        let Inbound::Query(query) = parse(&v) else {
            panic!("no query: {v}");
        };
        query.key()
    };
    let base = json!({"cmd": "NODE_CLUSTER", "act": "queryServer", "seq": 1, "index": 2,
        "address": null, "port": 3000, "addressType": 4, "backlog": false, "data": null});
    assert_eq!(query(base.clone()), "null:3000:4:undefined");
    let mut zero = base.clone();
    zero["port"] = json!(0);
    assert_eq!(query(zero), "null:0:4:undefined:2");
    let mut path = base.clone();
    path["port"] = json!(-1);
    path["address"] = json!("/run/x.sock");
    path["addressType"] = json!(-1);
    assert_eq!(query(path), "/run/x.sock:-1:-1:undefined");
    let mut datagram = base.clone();
    datagram["addressType"] = json!("udp4");
    datagram["port"] = Value::Null;
    assert_eq!(query(datagram), "null:undefined:udp4:undefined:2");
}

#[test]
fn table_of_messages() {
    let cases = [
        (
            json!({"cmd": "NODE_CLUSTER", "act": "online"}),
            Inbound::Online,
        ),
        (json!({"cmd": "NODE_HANDLE_ACK"}), Inbound::HandleAck),
        (json!({"cmd": "NODE_HANDLE_NACK"}), Inbound::HandleNack),
        (
            json!({"cmd": "NODE_HANDLE", "type": "net.Socket"}),
            Inbound::Handle,
        ),
        (
            json!({"cmd": "NODE_CLUSTER", "act": "close", "key": "k"}),
            Inbound::Close("k".into()),
        ),
        (
            json!({"cmd": "NODE_CLUSTER", "act": "close"}),
            Inbound::Unknown,
        ),
        (
            json!({"cmd": "NODE_CLUSTER", "act": "queryServer", "seq": 1}),
            Inbound::Unknown,
        ),
        (
            json!({"cmd": "NODE_CLUSTER", "act": "whatever"}),
            Inbound::Unknown,
        ),
        (json!({"cmd": "NODE_FUTURE"}), Inbound::Unknown),
        (
            json!({"cmd": "NODE_SOCKET_GET_COUNT", "key": "4:null:80"}),
            Inbound::SocketCount("4:null:80".into()),
        ),
        (
            json!({"cmd": "NODE_SOCKET_NOTIFY_CLOSE", "key": "4:null:80"}),
            Inbound::SocketsClosed("4:null:80".into()),
        ),
        (json!({"cmd": "NODE_SOCKET_NOTIFY_CLOSE"}), Inbound::Unknown),
        (json!({"cmd": "mine", "text": "\"NODE_"}), Inbound::App),
        (json!({"hello": [1, 2]}), Inbound::App),
        (json!("ready"), Inbound::Ready),
        (
            json!({"cmd": "NODE_RCLUSTER", "act": "drained", "cut": 3}),
            Inbound::Shim(ShimMessage::Drained {
                cut: 3,
                silent: 0,
                stopping: false,
            }),
        ),
        (
            json!({"cmd": "NODE_RCLUSTER", "act": "later", "x": 3}),
            Inbound::Shim(ShimMessage::Other),
        ),
    ];
    for (value, expected) in cases {
        assert_eq!(parse(&value), expected, "{value}");
    }
}

#[test]
fn what_is_no_json_is_malformed_at_any_depth() {
    for line in [
        &b""[..],
        b"{",
        b"\xff\xfe",
        b"{\"cmd\":\"NODE_X\"",
        b"nope",
        b"{} {}",
    ] {
        assert!(Inbound::parse(line).is_err(), "{line:?}");
    }
    let deep = [vec![b'['; 200_000], vec![b']'; 200_000]].concat();
    assert_eq!(Inbound::parse(&deep).ok(), Some(Inbound::App));
    let cut = vec![b'['; 200_000];
    assert!(Inbound::parse(&cut).is_err());
}
