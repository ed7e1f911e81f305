fn main() {
    for p in std::env::args().skip(1) {
        match efq::onnx::load(std::path::Path::new(&p)) {
            Err(e) => println!("{e}"),
            Ok(m) => {
                let inv = efq::graph::inventory(&m);
                println!("== {p} sites {}", inv.sites.len());
                for w in &inv.weights {
                    if w.bytes >= 64 {
                        println!(
                            "{:22} {:60} {:?} {:?}",
                            w.role.name(),
                            w.name,
                            w.dims,
                            w.uses
                                .iter()
                                .map(|u| match u {
                                    efq::graph::WeightUse::Site(i) =>
                                        format!("site {i} {:?}", inv.sites[*i].form),
                                    efq::graph::WeightUse::Other { obstacle, .. } => obstacle.clone(),
                                })
                                .collect::<Vec<_>>()
                        );
                    }
                }
            }
        }
    }
}
