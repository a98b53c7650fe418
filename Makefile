# knarr: what one runs. `make help` lists the targets.
SHELL := /bin/bash
TARGET := $(CURDIR)/target
BIN := $(TARGET)/release
# The programs that run inside or beside a pod are linked statically and without relocation: every page that
# the loader would have to patch is memory that each pod pays for.
STATIC := -- -C target-feature=+crt-static -C relocation-model=static
STATIC_DIR := $(TARGET)/static
# Programs whose steps can be failed: never those that are installed.
FAULTS := $(TARGET)/faults

.PHONY: help setup build install deb demo matrix test test-guest test-kube critest critest-guest check prove model bench soak doc fmt clean check-setup test-setup
help:
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "%-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## installs what building needs (Debian; a C compiler for two of the dependencies)
	@scripts/setup.sh build

build: setup ## builds knarr, knarr-supervisor and the demo's workload into target/release
	cargo build --release --locked -p cri-server
	cargo rustc --release --locked -p runtime --features supervisor --bin knarr-supervisor --target-dir $(STATIC_DIR) $(STATIC)
	cargo rustc --release --locked -p demo-workload --target-dir $(STATIC_DIR) $(STATIC)
	install -m 755 $(STATIC_DIR)/release/knarr-supervisor $(STATIC_DIR)/release/knarr-demo-workload $(BIN)/

install: ## installs what `make build` has built, with unit, man pages and documents; PREFIX (/usr/local), DESTDIR
	packaging/install $(BIN)

deb: build ## a Debian package of it, in target
	@scripts/setup.sh deb
	packaging/deb $(BIN) $(TARGET)

demo: build ## the main job on its own: a registry, a pull, a pod with a network, logs, exec, stats
	$(BIN)/knarr demo

check: check-setup ## what one runs before every commit: format, lints, pure tests, docs, licences, layering
	cargo fmt --all --check
	cargo clippy --workspace --locked --all-targets --features runtime/supervisor -- -D warnings
	cargo test --workspace --locked --lib --bins -q
	cargo test --locked -q -p e2e --test layering
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --locked --no-deps --document-private-items -q
	scripts/deny.sh

check-setup:
	@scripts/setup.sh check

test-setup:
	@scripts/setup.sh test

test: test-setup build ## everything: pure tests, crate tests with real kernels, system tests against the built binaries
	scripts/go.sh check
	KNARR_BIN_DIR=$(BIN) cargo test --workspace --locked --features runtime/supervisor
	KNARR_BIN_DIR=$(BIN) crates/e2e/kube/test short
	KNARR_BIN_DIR=$(BIN) crates/e2e/guest/test short

test-guest: test-setup build ## the tests for every kind of host in a virtual machine: cgroup v2 with cgroupfs and systemd, AppArmor, SELinux
	KNARR_BIN_DIR=$(BIN) crates/e2e/guest/test full $(KINDS)

test-kube: test-setup build ## scenarios with a real kubelet and a cluster (docs/kubernetes.md); NAMES are parts of names, KNARR_KUBE_RUNTIME=containerd
	KNARR_BIN_DIR=$(BIN) crates/e2e/kube/test full $(NAMES)

critest: build ## Kubernetes' critest (on PATH), with NRI; FLAGS are its own, KNARR_CRITEST_REGISTRY has its images
	KNARR_BIN_DIR=$(BIN) scripts/critest.sh $(FLAGS)

critest-guest: build ## Kubernetes' critest (on PATH) in the virtual machine; FLAGS are its own, KNARR_CRITEST_REGISTRY has its images
	KNARR_BIN_DIR=$(BIN) crates/e2e/guest/critest $(FLAGS)

prove: test-setup ## shows that the attack tests notice: one defence switched off after another, in a scratch copy
	crates/e2e/tests/attacks/prove.sh

model: test-setup build ## random scripts of calls and crashes against a model of what CRI promises; SECONDS (3600), SEED, SCRIPT=file to replay (docs/model.md)
	KNARR_BIN_DIR=$(BIN) KNARR_MODEL_SECONDS=$(or $(SECONDS),3600) $(if $(SEED),KNARR_MODEL_SEED=$(SEED)) $(if $(SCRIPT),KNARR_MODEL_SCRIPT=$(abspath $(SCRIPT))) \
		cargo test --locked -p e2e --test model -- --nocapture the_daemon_does

matrix: test-setup ## every step of every procedure is failed in every way (docs/matrix.md); ONLY is a part of "procedure step fault"
	cargo build --locked -p cri-server --features faults --target-dir $(FAULTS)
	cargo build --locked -p runtime --features supervisor --bin knarr-supervisor --target-dir $(FAULTS)
	KNARR_BIN_DIR=$(FAULTS)/debug KNARR_MATRIX_ONLY="$(ONLY)" KNARR_MATRIX_TABLE=$(TARGET)/matrix.txt \
		cargo test --locked -p e2e --test matrix -- --nocapture

bench: build ## side by side with containerd (runc, crun): the table of ratios
	@scripts/setup.sh bench
	KNARR_BIN_DIR=$(BIN) scripts/bench.sh

soak: test-setup build ## ten thousand pods come and go, five hundred at once, and nothing may grow: tables and a chart in target/soak; FLAGS are its options
	KNARR_BIN_DIR=$(BIN) cargo run --release --locked -q -p e2e --bin soak -- full $(FLAGS)

clean:
	cargo clean
