module autojoin/tools/go/gateway-api-1.4

go 1.26

// The Gateway API's CRDs, for Cilium 1.19.
require sigs.k8s.io/gateway-api v1.4.1
