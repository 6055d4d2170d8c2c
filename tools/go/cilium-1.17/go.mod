module autojoin/tools/cilium-1.17

go 1.26

// The chart and the CRDs of Cilium 1.17.
require github.com/cilium/cilium v1.17.0
