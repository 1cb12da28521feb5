"""The provisioning side of a PKCS#11 token: the only part of this package that touches the binding."""
