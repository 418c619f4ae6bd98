"""From an edited model to what is handed on: releases that can be verified, and candidates made elsewhere."""
