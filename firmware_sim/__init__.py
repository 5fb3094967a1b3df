"""The simulated wearable: a pure device with a flash ring of its own, played over a virtual Bluetooth radio."""
