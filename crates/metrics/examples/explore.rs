use burn::tensor::*; use quench_metrics::*;
fn g(n:usize,d:usize,seed:u64,dev:&Device)->Tensor<2>{Tensor::from_data(TensorData::new(Source::Gaussian.samples(n*d,seed),[n,d]),(dev,DType::F32))}
fn main(){ let dev=Device::flex();
 for (name,s,norm) in [("s=.05",0.05f32,true),("s=.1",0.1,true),("s=.2",0.2,true),("s=.3",0.3,true)] { 
  let n=1000; let x=g(n,8,1,&dev).matmul(g(8,64,2,&dev))/8f32.sqrt();
  let x= x+g(n,64,3,&dev)*s; let x= if norm {x/(1.0+s*s).sqrt()} else {x};
  for dl in [0.5f32,1.,2.,3.,4.]{ let y=(x.clone()/dl).round()*dl;
   let k=Neighbours::of(x.clone(),10).overlap(&Neighbours::of(y.clone(),10)); let k=k.iter().sum::<f32>()/n as f32;
   let p=Preservation::of(x.clone(),y.clone(),10); let m=|v:&[f32]|v.iter().sum::<f32>()/n as f32;
   println!("{name} {dl}: knn {k:.3} trust {:.4} cont {:.4} bcka {:.3} cka {:.3} rsa {:.3} proc {:.3}",m(&p.trustworthiness),m(&p.continuity),biased_cka(x.clone(),y.clone()).unwrap(),cka(x.clone(),y.clone()).unwrap(),rsa(x.clone(),y.clone(),Pairs::default()).unwrap(),procrustes(x.clone(),y).unwrap());
  }}
 for (n,d) in [(20,256),(50,256),(200,256),(1000,256)] { let r=if n<1000{100}else{5}; let t=std::time::Instant::now(); let v:Vec<f64>=(0..r).map(|i|cka(g(n,d,2*i+1,&dev),g(n,d,2*i+2,&dev)).unwrap()).collect(); let b=biased_cka(g(n,d,1,&dev),g(n,d,2,&dev)).unwrap();
   let m=v.iter().sum::<f64>()/r as f64; let sd=(v.iter().map(|x|(x-m).powi(2)).sum::<f64>()/r as f64).sqrt(); println!("{n}: biased {b:.3} debiased {m:.4} sd {sd:.4} {:?}",t.elapsed());}
 // ksg
 for d in [1,2,4,8]{ for n in [2000,4000]{ let t=std::time::Instant::now(); let x=g(n,d,1,&dev); let y=x.clone()*0.9+g(n,d,2,&dev)*(1f32-0.81).sqrt(); println!("ksg d={d} n={n} {:.3} {:?}",ksg(x,y,4).unwrap().information.value,t.elapsed()); }}
 for n in [1000,2000,4000]{ let s=unit(g(n,3,1,&dev)).matmul(g(3,32,9,&dev)); let u=Tensor::<2>::from_data(TensorData::new(Source::Uniform.samples(n*5,3),[n,5]),(&dev,DType::F32));
  let o=unit(g(n,3,1,&dev)); let f=|x|two_nn(x,Bootstrap{resamples:2,..Default::default()}).unwrap().value; println!("{n} S2 skew {:.3} orth {:.3} cube {:.3} R16 {:.3} pr cube {:.3} S2 {:.3}",f(s),f(o.clone()),f(u.clone()),f(g(n,16,4,&dev)),participation_ratio(u).unwrap(),participation_ratio(o).unwrap());}
 for dl in [0.05,0.2,0.5,1.0,2.0,4.0]{ let n=1000000; let t=std::time::Instant::now(); let x=g(n,1,1,&dev); let w=x.clone()+g(n,1,2,&dev)*0.5; let j=Joint::of(&cells(x.clone(),dl),&cells(w,0.1)); println!("chain {dl}: {:.4} plug {:.4} reliable {} H {:.4} {:?}",j.information().value,j.plug_in(),j.reliable(),entropy(&cells(x,dl)),t.elapsed()); }
}
