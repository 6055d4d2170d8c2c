module autojoin/tools/cilium-1.20

go 1.26

// The chart and the CRDs of Cilium 1.20.
require github.com/cilium/cilium v1.20.2
