module autojoin/tools/go/cilium-1.19

go 1.26

// The chart and the CRDs of Cilium 1.19.
require github.com/cilium/cilium v1.19.4
