//! Temporary.
use burn::tensor::{DType, Device, Distribution, Tensor};
use quench_format::*;
use quench_kernels::*;
use std::time::Instant;
#[test]
fn speed() {
    let d = Device::flex();
    println!("f16 {} bf16 {}", d.supports_dtype(DType::F16), d.supports_dtype(DType::BF16));
    for s in ["int4/128/f16", "uint4/128/f16", "nf4/64/f16", "int3/128/f16", "int8/row/f16", "slog9/128/f16"] {
        let scheme: Scheme = s.parse().unwrap();
        let shape = [4096usize, 4096];
        let codes: Vec<u16> = (0..shape[0] * shape[1]).map(|k| (k * 40503 % scheme.code.len()) as u16).collect();
        let [r, g] = scheme.group.scale_shape(shape);
        let zeros = scheme.code.is_affine().then(|| vec![3; r * g]);
        let p = Packed::from_codes(scheme, shape, &codes, Scales::Float(vec![0.5; r * g]), zeros, None).unwrap();
        let t0 = Instant::now();
        let slow = p.decode();
        let t_oracle = t0.elapsed();
        let q = QTensor::from_packed(&p, &d);
        let x = Tensor::<2>::random([1, 4096], Distribution::Default, &d);
        let _ = q.dequantize();
        let mut w = q.dequantize();
        let mut t1 = std::time::Duration::MAX;
        for _ in 0..20 { let t = Instant::now();
        w = q.dequantize();
        t1 = t1.min(t.elapsed()); }
        let t = Instant::now();
        let _ = q.matmul(x.clone());
        let t2 = t.elapsed();
        let w2 = w.clone().transpose();
        let t = Instant::now();
        let _ = x.matmul(w2);
        let t3 = t.elapsed();
        let _ = slow.len();
        println!("{s}: oracle {t_oracle:?} decode {t1:?} packed matmul {t2:?} dense matmul {t3:?}");
    }
}
