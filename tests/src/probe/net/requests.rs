//! HTTP: requests that end up at a denied name on the same address, openly, hidden, or behind another one.

use libc::{EACCES, ECONNRESET};

use super::DENIED;
use super::acts::{h2c, http};
use crate::probe::case::{Case, Outside, case};

/// A refusal that can be read, or none.
const NO_REQUEST: &[i32] = &[EACCES, ECONNRESET];
/// What more may be asked for: servers that read more than others.
const LOOSE: &[&str] = &[
    "--allow",
    "good.test:3000",
    "--allow",
    "good.test:8000",
    "--allow",
    "good.test:8050",
    "--allow",
    "good.test:8082",
];

/// A request that ends up at evil.test.
macro_rules! request {
    ($name:literal, $request:literal) => {
        case(
            $name,
            http,
            &["good.test", "80", $request, "this is evil.test"],
            NO_REQUEST,
            Outside::User,
            DENIED,
        )
        .seen("http.request", &[("/decision", "deny")])
    };
}

/// The same at servers that read more than others; these may be asked for good.test on their ports.
macro_rules! hidden {
    ($name:literal, $port:literal, $request:literal) => {
        case(
            $name,
            http,
            &["good.test", $port, $request, "this is evil.test"],
            NO_REQUEST,
            Outside::User,
            DENIED,
        )
        .options(LOOSE)
    };
}

/// A request whose body, if it has one, begins elsewhere for some servers, and which ends up at evil.test where bodies
/// are not read at all.
macro_rules! smuggled {
    ($name:literal, $fields:literal) => {
        case(
            $name,
            http,
            &[
                "good.test",
                "8000",
                concat!(
                    "POST / HTTP/1.1\r\nHost: good.test:8000\r\n",
                    $fields,
                    "\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"
                ),
                "this is evil.test",
            ],
            NO_REQUEST,
            Outside::User,
            DENIED,
        )
        .options(LOOSE)
        .seen("http.request", &[("/decision", "deny"), ("/rule", "http.malformed")])
        .origin("HTTP request smuggling, RFC 9112 §11.2")
    };
}

/// All of them.
pub const CASES: &[Case] = &[
    // HTTP: the host of every request is judged.
    request!("http_other_host", "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"),
    request!("http_upper_case", "GET / HTTP/1.1\r\nHost: EVIL.TEST\r\n\r\n"),
    request!("http_trailing_dot", "GET / HTTP/1.1\r\nHost: evil.test.\r\n\r\n"),
    request!("http_with_a_port", "GET / HTTP/1.1\r\nHost: evil.test:80\r\n\r\n"),
    request!("http_oddly_spelled_header", "GET / HTTP/1.1\r\nhOsT:   evil.test  \r\n\r\n"),
    request!("http_bare_line_feeds", "GET / HTTP/1.1\nHost: evil.test\n\n"),
    request!("http_empty_lines_first", "\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"),
    request!("http_1_0", "GET / HTTP/1.0\r\nHost: evil.test\r\n\r\n"),
    request!("http_absolute_target", "GET http://evil.test/ HTTP/1.1\r\nHost: good.test\r\n\r\n"),
    request!(
        "http_absolute_target_with_a_port",
        "GET http://evil.test:80/ HTTP/1.1\r\nHost: good.test:80\r\n\r\n"
    ),
    request!(
        "http_second_request",
        "GET / HTTP/1.1\r\nHost: good.test\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    ),
    request!(
        "http_after_a_body",
        "POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    ),
    request!(
        "http_after_chunks",
        "POST / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    ),
    request!(
        "http_after_an_extended_chunk",
        "POST / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    ),
    request!(
        "http_after_an_empty_body",
        "POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    ),
    request!(
        "http_after_an_upgrade_that_is_none",
        "GET / HTTP/1.1\r\nHost: good.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    ),
    request!(
        "http_fourth_request",
        "HEAD / HTTP/1.1\r\nHost: good.test\r\n\r\nOPTIONS / HTTP/1.1\r\nHost: good.test\r\n\r\nGET / HTTP/1.1\r\nHost: good.test\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    ),
    smuggled!("smuggled_by_two_framings", "Content-Length: 35\r\nTransfer-Encoding: chunked"),
    smuggled!("smuggled_by_two_lengths", "Content-Length: 0\r\nContent-Length: 35"),
    smuggled!("smuggled_by_a_list_of_lengths", "Content-Length: 35, 0"),
    smuggled!("smuggled_by_a_signed_length", "Content-Length: +35"),
    smuggled!("smuggled_by_a_length_beyond_numbers", "Content-Length: 18446744073709551651"),
    smuggled!("smuggled_by_a_blank_before_the_colon", "Content-Length : 35"),
    smuggled!("smuggled_by_a_folded_field", "X: y\r\n Content-Length: 35"),
    smuggled!("smuggled_by_an_underscore", "Content_Length: 35"),
    smuggled!("smuggled_by_another_coding", "Transfer-Encoding: xchunked"),
    smuggled!("smuggled_by_chunks_that_are_coded", "Transfer-Encoding: chunked, identity"),
    smuggled!("smuggled_by_a_tab_in_the_coding", "Transfer-Encoding: \tchunked\r\nContent-Length: 35"),
    smuggled!("smuggled_by_a_bare_return", "X: y\rContent-Length: 35"),
    // Requests that look like another protocol, or like a part of something.
    hidden!("hidden_behind_a_control_byte", "8000", "POST /\u{1}%% HTTP/1.1\r\nHost: evil.test\r\n\r\n"),
    hidden!("hidden_behind_a_nul", "8000", "POST /%00%% HTTP/1.1\r\nHost: evil.test\r\n\r\n"),
    hidden!("hidden_in_an_odd_method", "8000", "\u{1}%% / HTTP/1.1\r\nHost: evil.test\r\n\r\n"),
    hidden!("hidden_as_rtsp", "3000", "POST / RTSP/1.1\r\nHost: evil.test\r\n\r\n").host_may_lack(),
    hidden!("hidden_as_ice", "3000", "SOURCE / ICE/1.1\r\nHost: evil.test\r\n\r\n").host_may_lack(),
    hidden!(
        "hidden_behind_a_proxys_line",
        "8082",
        "PROXY TCP4 192.0.2.1 192.0.2.80 1 80\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    ),
    hidden!(
        "hidden_behind_a_proxys_header",
        "8082",
        "\r\n\r\n%00\r\nQUIT\n!\u{11}%00\u{c}abcdefghijklGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    ),
    hidden!(
        "hidden_behind_a_status",
        "8000",
        "GET /status/101 HTTP/1.1\r\nHost: good.test:8000\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n%%GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    ),
    hidden!(
        "hidden_in_the_body_of_a_get",
        "8000",
        "GET / HTTP/1.1\r\nHost: good.test:8000\r\nContent-Length: 35\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    ),
    case(
        "hidden_behind_a_server_that_speaks_first",
        h2c,
        &["good.test", "8050", "evil.test"],
        NO_REQUEST,
        Outside::User,
        DENIED,
    )
    .options(LOOSE)
    .host_may_lack(),
    case(
        "http2_names_another_host",
        h2c,
        &["good.test", "8050", "evil.test:8050", "first"],
        NO_REQUEST,
        Outside::User,
        DENIED,
    )
    .options(LOOSE)
    .host_may_lack()
    .seen("http.request", &[("/decision", "deny")]),
    case(
        "http2_names_another_host_on_a_later_stream",
        h2c,
        &["good.test", "8050", "good.test:8050%%evil.test:8050", "first"],
        NO_REQUEST,
        Outside::User,
        DENIED,
    )
    .options(LOOSE)
    .host_may_lack()
    .seen("http.request", &[("/decision", "deny")]),
];
