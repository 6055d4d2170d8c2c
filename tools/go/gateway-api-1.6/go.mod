module autojoin/tools/gateway-api-1.6

go 1.26

// The Gateway API's CRDs, for Cilium 1.20.
require sigs.k8s.io/gateway-api v1.6.1
