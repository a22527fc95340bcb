using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [(name = "main", worker = .app)],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")]
);

const app :Workerd.Worker = (
  compatibilityDate = "2026-01-01",
  modules = [
    (name = "worker.js", esModule = embed "bundled.js"),
    (name = "heddle/wasm/heddle-simd128.wasm", wasm = embed "node_modules/heddle/dist/wasm/heddle-simd128.wasm"),
    (name = "models/dense_relu.bundle.json", text = embed "models/dense_relu.bundle.json"),
    (name = "models/config.json", text = embed "models/story/config.json"),
    (name = "models/tokenizer.json", text = embed "models/story/tokenizer.json"),
    (name = "models/tokenizer_config.json", text = embed "models/story/tokenizer_config.json"),
    (name = "models/model.safetensors", data = embed "models/story/model.safetensors"),
  ]
);
