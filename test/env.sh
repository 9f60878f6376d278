# Sourced from the top of the tree: the environment in which kubectl, the plugin
# and the test cluster find each other. The authority of a throw-away cluster
# lives and ends with it.
KUBE_GATEWAY_CLUSTER=$PWD/bin/cluster
eval "$("$KUBE_GATEWAY_CLUSTER" env)"
XDG_DATA_HOME=$(dirname "$KUBECONFIG")/operator
PATH=$PWD/bin:$PATH
export KUBE_GATEWAY_CLUSTER XDG_DATA_HOME PATH
