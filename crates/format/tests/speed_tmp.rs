//! Speed, measured once by hand.
use quench_format::*;
use std::hint::black_box;
use std::time::Instant;
#[test]
fn speed() {
    let mut s = 1u64;
    let x: Vec<f32> = (0..1 << 20)
        .map(|_| {
            s = s.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((s >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 2.2
        })
        .collect();
    for c in ["int4", "uint4", "int8", "nf4", "e2m1", "slog4", "slog5", "e4m3", "slog8", "slog16"] {
        let code: Code = c.parse().unwrap();
        let t = Instant::now();
        let g = code.grid();
        let build = t.elapsed();
        let m = code.max_level();
        let y: Vec<f32> = x.iter().map(|x| x * m).collect();
        let t = Instant::now();
        let mut a = 0u32;
        for &x in black_box(&y) {
            a = a.wrapping_add(g.nearest(x) as u32);
        }
        let e = t.elapsed();
        black_box(a);
        let codes: Vec<u16> = y.iter().map(|&x| g.nearest(x)).collect();
        let t = Instant::now();
        let w = bits::pack(&codes, 4096, code.bits());
        let pk = t.elapsed();
        let t = Instant::now();
        let u = bits::unpack(&w, 4096, code.bits());
        let up = t.elapsed();
        assert_eq!(u, codes);
        let scheme = Scheme { code, group: "128".parse().unwrap(), scale: Scale::Float(FloatKind::F32) };
        let p = Packed::from_codes(
            scheme,
            [256, 4096],
            &codes,
            Scales::Float(vec![1.; 256 * 32]),
            code.is_affine().then(|| vec![0; 256 * 32]),
            None,
        )
        .unwrap();
        let t = Instant::now();
        black_box(p.decode());
        let d = t.elapsed();
        let n = (1 << 20) as f64 / 1e9;
        println!(
            "{c:7} build {build:?} nearest {:.2} pack {:.2} unpack {:.2} decode {:.2} ns",
            e.as_secs_f64() / n,
            pk.as_secs_f64() / n,
            up.as_secs_f64() / n,
            d.as_secs_f64() / n
        );
    }
}
