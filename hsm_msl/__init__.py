"""Two message-security protocols, MSL and the secure dialog, with every long-term key inside a PKCS#11 token."""
