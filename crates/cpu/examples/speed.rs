//! Scratch.
use quench_cpu::*;
use quench_format::tiles::Tiles;
use quench_format::*;
use std::time::Instant;

fn tiles(scheme: &str, n: usize, k: usize) -> (Tiles, Option<Vec<f32>>) {
    let scheme: Scheme = scheme.parse().unwrap();
    let mut s = 1u64;
    let mut next = || {
        s = s.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (s >> 33) as usize
    };
    let codes: Vec<u16> = (0..n * k).map(|_| (next() % scheme.code.len()) as u16).collect();
    let [r, g] = scheme.group.scale_shape([n, k]);
    let scales =
        (0..r * g).map(|_| scheme.scale.float().unwrap().round((next() % 1000) as f32 / 1e5 + 0.001)).collect();
    let zeros = scheme.code.is_affine().then(|| (0..r * g).map(|_| (next() % scheme.code.len()) as u16).collect());
    let levels = match scheme.code {
        Code::Int { .. } | Code::Affine { .. } => None,
        c => Some(c.levels()),
    };
    (Tiles::new(&Packed::from_codes(scheme, [n, k], &codes, Scales::Float(scales), zeros, None).unwrap()), levels)
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let schemes = args.get(1).cloned().unwrap_or("int4/32/f16".into());
    let ms: Vec<usize> =
        args.get(2).cloned().unwrap_or("1,8,128,512".into()).split(',').map(|s| s.parse().unwrap()).collect();
    let acts: Vec<Activations> =
        args.get(3).cloned().unwrap_or("int8".into()).split(',').map(|s| s.parse().unwrap()).collect();
    let n: usize = args.get(4).map_or(4096, |s| s.parse().unwrap());
    let k: usize = args.get(5).map_or(4096, |s| s.parse().unwrap());
    let isa = Isa::chosen();
    let big = vec![1u64; 64 << 20];
    let read = || {
        use rayon::prelude::*;
        let t = Instant::now();
        let parts = rayon::current_num_threads();
        let s: u64 = big
            .par_chunks(big.len() / parts)
            .map(|c| {
                let mut a = [0u64; 32];
                for c in c.chunks_exact(32) {
                    for i in 0..32 {
                        a[i] ^= c[i];
                    }
                }
                a.iter().sum::<u64>()
            })
            .sum();
        std::hint::black_box(s);
        (big.len() * 8) as f64 / t.elapsed().as_secs_f64() / 1e9
    };
    for scheme in schemes.split(' ') {
        let (t, levels) = tiles(scheme, n, k);
        let bytes = 4 * (t.codes.len() + t.scales.len() + t.zeros.as_ref().map_or(0, |z| z.len()));
        let copies = (256 << 20) / bytes + 1;
        let all: Vec<Tiles> = (0..copies).map(|_| t.clone()).collect();
        for act in &acts {
            for &m in &ms {
                let x: Vec<f32> = (0..m * k).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
                let mut run = |copies: usize| {
                    let mut v = Vec::new();
                    let mut bw = Vec::new();
                    let t0 = Instant::now();
                    let mut i = 0;
                    while v.len() < 5 || t0.elapsed().as_secs_f64() < 0.6 {
                        if i % 40 == 0 {
                            bw.push(read());
                        }
                        let t = &all[i % copies];
                        let lv = match (&t.zeros, &levels) {
                            (Some(z), _) => Levels::Affine(z),
                            (None, Some(l)) => Levels::Table(l),
                            _ => Levels::Signed,
                        };
                        let w = Weights::new(t.layout, &t.codes, &t.scales, lv, None);
                        let s = Instant::now();
                        std::hint::black_box(matmul(&w, &x, m, Side::Transposed, *act, isa));
                        v.push(s.elapsed().as_secs_f64());
                        i += 1;
                    }
                    v.sort_by(f64::total_cmp);
                    bw.sort_by(f64::total_cmp);
                    (v[v.len() / 2], v[0], bw[bw.len() / 2])
                };
                let (med, min, bw) = run(copies);
                let hot = run(1);
                println!(
                    "{isa} {scheme} {act} m={m}: cold {:.0} us (min {:.0}) {:.1} GB/s of {bw:.1} = {:.0}% | {:.0} GOP/s | hot {:.0} us {:.0} GB/s",
                    med * 1e6,
                    min * 1e6,
                    bytes as f64 / med / 1e9,
                    bytes as f64 / med / bw / 1e7,
                    2.0 * (m * n * k) as f64 / med / 1e9,
                    hot.0 * 1e6,
                    bytes as f64 / hot.0 / 1e9
                );
            }
        }
    }
}
