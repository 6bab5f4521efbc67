// A library that torch-npu links and of which it uses nothing: only its name has to exist.
