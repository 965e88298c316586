"""An endpoint and questions -> scores, order-sensitivity, paired statistics."""
