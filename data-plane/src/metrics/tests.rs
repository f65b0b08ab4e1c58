//! What is counted, and how it is shown.

use super::*;

#[test]
fn cores_are_added_up_under_kongs_names() {
    let labels = Arc::new(Labels {
        service: "a\"b".to_owned(),
        route: "r".to_owned(),
        ..Labels::default()
    });
    let cores = [Arc::new(Metrics::default()), Arc::new(Metrics::default())];
    // The route of the second one was made anew, with the same name.
    for ((core, latency), id) in cores.iter().zip([25, 70_000]).zip(1..) {
        core.observe(&Observation {
            route: Some((Uuid::from_u128(id), &labels)),
            counts: Counts {
                statuses: true,
                latencies: true,
                bandwidth: true,
                consumers: latency > 25,
                health: false,
            },
            consumer: Some("ann"),
            status: StatusCode::OK,
            source: Source::Service,
            received: 3,
            sent: 4,
            proxy_latency: 1,
            upstream_latency: Some(latency),
            total_latency: latency,
            lacks: false,
        });
    }
    // And once more, as one of streams.
    cores[0].streams.observe(&Ended {
        route: (Uuid::from_u128(3), &labels),
        counts: Counts {
            bandwidth: true,
            ..Counts::default()
        },
        status: StatusCode::OK,
        connected: true,
        received: 2,
        sent: 5,
        session: 1,
    });
    let text = Sum::of(&cores).render("n", Counts::DEFAULT);
    for line in [
        r#"kong_http_requests_total{service="a\"b",route="r",code="200",source="service",workspace="default",consumer=""} 1"#,
        r#"kong_http_requests_total{service="a\"b",route="r",code="200",source="service",workspace="default",consumer="ann"} 1"#,
        r#"kong_bandwidth_bytes{service="a\"b",route="r",direction="egress",workspace="default",consumer="ann"} 4"#,
        r#"kong_bandwidth_bytes{service="a\"b",route="r",direction="egress",workspace="default",consumer=""} 9"#,
        r#"kong_upstream_latency_ms_bucket{service="a\"b",route="r",workspace="default",le="25"} 1"#,
        r#"kong_upstream_latency_ms_bucket{service="a\"b",route="r",workspace="default",le="60000"} 1"#,
        r#"kong_upstream_latency_ms_bucket{service="a\"b",route="r",workspace="default",le="+Inf"} 2"#,
        r#"kong_upstream_latency_ms_sum{service="a\"b",route="r",workspace="default"} 70025"#,
        r#"kong_nginx_requests_total{node_id="n",subsystem="http"} 2"#,
        "kong_nginx_metric_errors_total 0",
    ] {
        let told = text.lines().filter(|found| *found == line);
        assert_eq!(told.count(), 1, "{line}\n{text}");
    }
    assert!(
        !text.contains("stream_sessions"),
        "nothing is said of what nobody has seen"
    );
    let untold = Sum::of(&cores).render("n", Counts::default());
    assert!(text.ends_with(&untold) && !untold.contains("route="));
    let statuses = Counts {
        statuses: true,
        ..Counts::default()
    };
    let text = Sum::of(&cores).render("n", statuses);
    assert!(text.contains("kong_http_requests_total{"));
    assert!(!text.contains("kong_bandwidth_bytes") && !text.contains("latency_ms"));
}

/// Whatever operators want to be told.
#[test]
fn control_planes_are_told_of_failures_slowness_and_who_gave_up() {
    for (counts, consumer) in [
        (Counts::DEFAULT, None),
        (Counts::default(), None),
        (
            Counts {
                consumers: true,
                ..Counts::DEFAULT
            },
            Some("ann"),
        ),
    ] {
        let core = Arc::new(Metrics::default());
        let labels = Arc::new(Labels {
            route: "it".to_owned(),
            ..Labels::default()
        });
        let observe = |status: u16, source, total_latency, lacks| {
            core.observe(&Observation {
                route: (status != 404).then_some((Uuid::from_u128(1), &labels)),
                counts,
                consumer,
                status: StatusCode::from_u16(status).unwrap(),
                source,
                received: 1,
                sent: 1,
                proxy_latency: 1,
                upstream_latency: None,
                total_latency,
                lacks,
            });
        };
        observe(200, Source::Service, 2, false);
        observe(503, Source::Service, 2, false);
        observe(503, Source::Error, 2, true);
        // Whoever hangs up at once says nothing of how the gateway does, nor does one that sends half a request and goes.
        observe(499, Source::Error, 999, false);
        observe(499, Source::Error, 1_000, true);
        observe(499, Source::Error, 1_000, false);
        // Nor does what matches no route tell how long those of routes take.
        observe(404, Source::Error, 50_000, false);
        let figures = Sum::of(&[core]).figures();
        assert_eq!((figures.failed, figures.left), (1, 1), "{counts:?}");
        assert_eq!(figures.p99_since(&Figures::default()), 1_000_000);
    }
}
