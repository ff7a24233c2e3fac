from .command import bench_train as bench_train
