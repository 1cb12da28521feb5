"""The only place that touches the PKCS#11 binding."""
